/* What gets fuzzed: each target takes any bytes and must neither crash nor leak. tools/fuzz runs them under libFuzzer;
 * tests/test_fuzz_corpus.c replays tests/fuzz/corpus/NAME in every build. */
#ifndef ATELIER_TESTS_FUZZ_H
#define ATELIER_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

void fuzz_safetensors(const uint8_t *data, size_t n);
void fuzz_configs(const uint8_t *data, size_t n);
void fuzz_tokenizer(const uint8_t *data, size_t n);
void fuzz_adapter(const uint8_t *data, size_t n);
void fuzz_recipe(const uint8_t *data, size_t n);
void fuzz_prompts(const uint8_t *data, size_t n);
void fuzz_torch(const uint8_t *data, size_t n);

/* A file in memory with these bytes; its path is good until the next call with the same slot. */
enum { FUZZ_FILES = 4 };
const char *fuzz_file(int slot, const void *data, size_t n);
/* A folder of this process for targets that need names; files in it are overwritten. */
const char *fuzz_folder(void);
void fuzz_put(const char *name, const void *data, size_t n);

#endif

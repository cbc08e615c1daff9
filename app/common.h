/* Options that every command on a device shares, and what they mean for the engine. */
#ifndef ATELIER_APP_COMMON_H
#define ATELIER_APP_COMMON_H

#include "app/options.h"
#include "engine/engine.h"

struct common {
    const char *device, *class_name, *kernel, *config, *weights, *memory, *vae_tiling;
    int threads;
    bool debug, quiet, validate, step, nan, check, f32;
    struct model_files files;
};
struct option_table common_table(struct common *c);
/* --vae, --tokenizer, --variant, --prediction: for commands with --model. */
struct option_table common_files_table(struct model_files *f);

/* Log level, threads of the CPU device. Call once, before anything touches a device. */
void common_apply(const struct common *c);
/* Engine on the chosen device with the pipeline cache in the user's cache folder. model may be NULL. */
struct engine *common_engine(const struct common *c, const char *model, struct error *e);
/* plan_only: --memory may name more than there is, to plan for another device. */
struct engine *common_engine_for(const struct common *c, const char *model, bool plan_only, struct error *e);
/* Closes the engine; with --validate, false if the validation layer had something to say. Keeps an earlier failure:
 * returns ok && ... */
bool common_close(struct engine **engine, bool ok, struct error *e);

/* "3000" (MiB), "4GB" (1e9), "3.5GiB", "900M"; false with a sentence otherwise. */
bool common_bytes_parse(const char *text, int64_t *bytes, struct error *e);
/* "3.2 GiB", "410 MiB", "12 KiB". */
enum { COMMON_BYTES_TEXT = 48 };
char *common_bytes_text(int64_t bytes, char dst[COMMON_BYTES_TEXT]);
/* "2 h 05 min", "3 min 20 s", "12.3 s". */
char *common_seconds_text(double seconds, char dst[COMMON_BYTES_TEXT]);

/* SHA-256 of a file, its first 12 hex digits, as recipes have them; NULL with a sentence. */
const char *common_file_hash(struct arena *a, const char *path, struct error *e);

/* Before long work: the folder that a file is to appear in must be there. */
bool common_check_out(const char *option, const char *path, const char *ext, struct error *e);

#endif

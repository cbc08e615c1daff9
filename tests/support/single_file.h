/* The single-file form of a miniature folder, put together from NAME.names.json (tests/reference/make_single_file.py):
 * which of the folder's tensors stands where under which name. Fails the running test on any error. */
#ifndef ATELIER_TESTS_SINGLE_FILE_H
#define ATELIER_TESTS_SINGLE_FILE_H

#include "io/safetensors.h"

struct single_file {
    struct st_writer *writer; /* add what else the file shall have, then st_writer_save */
    struct arena *arena;      /* owns data that writer points to */
    struct st_file *parts[4];
};
/* name: "file-sd1". Tensors whose name contains `without` (may be NULL) are left out. */
struct single_file single_file_begin(const char *name, const char *without);
void single_file_end(struct single_file *s);

/* Both, into a file. */
void single_file_write(const char *name, const char *path);

#endif

/* A folder for a test's files, removed at the end. */
#ifndef ATELIER_TESTS_SCRATCH_H
#define ATELIER_TESTS_SCRATCH_H

#include <stddef.h>

/* Group setup and teardown for cmocka. */
int scratch_make(void **state);
int scratch_drop(void **state);

/* Path of name inside the folder. Valid until eight more calls. */
const char *scratch_path(const char *name);

/* Writes a file there and returns its path. Aborts the test on failure. */
const char *scratch_write(const char *name, const void *data, size_t bytes);

#endif

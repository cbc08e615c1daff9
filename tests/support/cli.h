/* The program as a person runs it, in a scratch folder. */
#ifndef ATELIER_TESTS_CLI_H
#define ATELIER_TESTS_CLI_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/os.h"

struct cli {
    struct arena *a;
    char *out, *err; /* what the last run printed */
    const char *dir; /* the scratch folder */
};
extern struct cli cli;

/* Group setup and teardown; a folder `out` lies ready. */
int cli_setup(void **state);
int cli_teardown(void **state);

/* A command for the shell; the exit code, 128 for a signal. */
int cli_shell(const char *command);
/* Runs `prefix atelier args` in the scratch folder; the exit code. $M is the folder of test data. */
int cli_run(const char *prefix, const char *args);
/* One sentence with the fragment on stderr, exit code 1, and nothing in the folder `out`. */
void cli_expect_failure(const char *prefix, const char *args, const char *fragment);

#define CLI_DATA ATELIER_SOURCE_DIR "/tests/data/"
#define CLI_OK(...)                                                                                                    \
    do {                                                                                                               \
        const char *args_ = arena_printf(cli.a, __VA_ARGS__);                                                          \
        int code_ = cli_run("", args_);                                                                                \
        if (code_) fail_msg("atelier %s: exit code %d: %s", args_, code_, cli.err);                                    \
    } while (0)

/* Of files in the scratch folder. */
bool cli_exists(const char *name);
bool cli_same_bytes(const char *a, const char *b);
char *cli_slurp(const char *path);
int cli_lines(const char *text);

#endif

#define _GNU_SOURCE
#include "tests/support/cli.h"
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

struct cli cli;

char *cli_slurp(const char *path) {
    struct os_map m;
    if (!os_file_map(&m, path, NULL)) return arena_strdup(cli.a, "");
    char *text = arena_strndup(cli.a, (const char *)m.data, m.bytes);
    os_file_unmap(&m);
    return text;
}

int cli_shell(const char *command) {
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int cli_run(const char *prefix, const char *args) {
    const char *command = arena_printf(cli.a, "cd '%s' && export M='%s'; %s '%s/atelier' %s >stdout 2>stderr", cli.dir,
                                       CLI_DATA, prefix, ATELIER_BINARY_DIR, args);
    int code = cli_shell(command);
    cli.out = cli_slurp(scratch_path("stdout"));
    cli.err = cli_slurp(scratch_path("stderr"));
    return code;
}

bool cli_exists(const char *name) { return os_path_exists(scratch_path(name)); }

bool cli_same_bytes(const char *a, const char *b) {
    struct os_map x, y;
    if (!os_file_map(&x, scratch_path(a), NULL)) return false;
    bool same = os_file_map(&y, scratch_path(b), NULL) && x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0;
    os_file_unmap(&x);
    os_file_unmap(&y);
    return same;
}

int cli_lines(const char *s) {
    int n = 0;
    for (; *s; s++) n += *s == '\n';
    return n;
}

void cli_expect_failure(const char *prefix, const char *args, const char *fragment) {
    int code = cli_run(prefix, args);
    const char *said = strstr(cli.err, "atelier: ");
    if (code != 1) os_file_remove(scratch_path("out/x.png"), NULL);
    if (code != 1) fail_msg("atelier %s: exit code %d instead of 1: %s", args, code, cli.err);
    if (!said || cli_lines(said) != 1 || !strstr(said, fragment))
        fail_msg("atelier %s: wanted \"%s\", got: %s", args, fragment, cli.err);
    struct os_entry *list;
    size_t n;
    assert_true(os_dir_list(cli.a, scratch_path("out"), &list, &n, NULL));
    if (!n) return;
    const char *left = list[0].name;
    os_file_remove(scratch_path(arena_printf(cli.a, "out/%s", left)), NULL);
    fail_msg("atelier %s left %s behind", args, left);
}

int cli_setup(void **state) {
    if (scratch_make(state) != 0) return -1;
    cli.a = arena_create(NULL);
    cli.dir = arena_strdup(cli.a, scratch_path(""));
    setenv("ATELIER_CACHE_DIR", arena_strdup(cli.a, scratch_path("cache")), 1);
    return os_dir_make(scratch_path("out"), NULL) ? 0 : -1;
}

int cli_teardown(void **state) {
    arena_destroy(&cli.a);
    return scratch_drop(state);
}

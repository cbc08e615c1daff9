/* The house rules as a test: which room may include which, sizes, widths, headers that compile alone, where the operating
 * system may be called, and no paths of somebody's machine. */
#include "tests/support/cm.h"
#include "tests/support/scratch.h"

#include "base/arena.h"
#include "base/os.h"
#include "base/path.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_C_LINES = 800, MAX_FUNCTION_LINES = 70, MAX_HEADER_LINES = 200, MAX_SHADER_LINES = 200 };
enum { MAX_COLUMNS = 128, MAX_PYTHON_COLUMNS = 160 };

/* Includes point down only. */
static const struct {
    const char *room, *may_include;
} rooms[] = {
    {"base", "base"},
    {"io", "io base"},
    {"graph", "graph base"},
    {"gpu", "gpu graph base shaders"},
    {"nn", "nn graph io base"},
    {"unet", "unet nn graph io base"},
    {"vae", "vae nn graph io base"},
    {"textenc", "textenc nn graph io base"},
    {"lora", "lora unet nn graph io base"},
    {"diffusion", "diffusion base"},
    {"checkpoint", "checkpoint diffusion textenc vae unet nn graph io base"},
    {"engine", "engine checkpoint diffusion lora textenc vae unet nn gpu graph io base"},
    {"train", "train engine checkpoint diffusion lora textenc vae unet nn gpu graph io base"},
    {"app", "app train engine checkpoint diffusion lora textenc vae unet nn gpu graph io base"},
    {"shaders", "shaders"},
    {"tests", "tests app train engine checkpoint diffusion lora textenc vae unet nn gpu graph io base shaders"},
};
enum { N_ROOMS = sizeof rooms / sizeof *rooms };

static const char *const os_headers[] = {"unistd.h", "sys/",    "pthread.h", "signal.h", "fcntl.h",  "dirent.h",
                                         "sched.h",  "time.h", "threads.h", "poll.h",   "netinet/", "arpa/",
                                         "termios.h", "ftw.h", "dlfcn.h"};

static struct arena *memory;
static int n_complaints;

#define COMPLAIN(...) (n_complaints++, print_error(__VA_ARGS__), print_error("\n"))

/* ---- The tree ---- */

struct file {
    const char *path, *text; /* path from the root of the tree */
    int room;                /* index into rooms, -1 outside */
    bool is_c, is_header, is_shader;
};

static struct file files[4096];
static int n_files;

static bool is_text(const char *p) {
    static const char *const ext[] = {"c",  "h",   "comp",  "glsl", "def",   "inc",  "py", "sh",
                                      "md", "txt", "cmake", "json", "jsonl", "html", "js", "css"};
    for (size_t i = 0; i < sizeof ext / sizeof *ext; i++)
        if (path_has_ext(p, ext[i])) return true;
    return !strchr(path_base(p), '.'); /* quickstart, check, .ci/run */
}

static void add_file(const char *path) {
    struct os_map m;
    if (!os_file_map(&m, path_join(memory, ATELIER_SOURCE_DIR, path), NULL)) return;
    struct file f = {.path = arena_strdup(memory, path), .room = -1};
    if (m.bytes <= 4 << 20) f.text = arena_strndup(memory, (const char *)m.data, m.bytes);
    os_file_unmap(&m);
    if (!f.text || memchr(f.text, 0, 1) || n_files == 4096) return;
    for (int r = 0; r < N_ROOMS; r++) {
        size_t n = strlen(rooms[r].room);
        if (strncmp(path, rooms[r].room, n) == 0 && path[n] == '/') f.room = r;
    }
    f.is_c = path_has_ext(path, "c");
    f.is_header = path_has_ext(path, "h");
    f.is_shader = path_has_ext(path, "comp") || path_has_ext(path, "glsl");
    files[n_files++] = f;
}

static void walk(const char *dir) {
    struct os_entry *list;
    size_t n;
    if (!os_dir_list(memory, *dir ? path_join(memory, ATELIER_SOURCE_DIR, dir) : ATELIER_SOURCE_DIR, &list, &n, NULL)) return;
    for (size_t i = 0; i < n; i++) {
        char *path = *dir ? path_join(memory, dir, list[i].name) : arena_strdup(memory, list[i].name);
        if (!list[i].is_dir) {
            if (is_text(path)) add_file(path);
        } else if (*dir && strcmp(list[i].name, "__pycache__") != 0) {
            walk(path);
        }
    }
}

static int load_tree(void **state) {
    static const char *const more[] = {"tools", "docs", "cmake", ".ci"};
    if (scratch_make(state) != 0) return -1;
    memory = arena_create(NULL);
    walk("");
    for (int r = 0; r < N_ROOMS; r++) walk(rooms[r].room);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) walk(more[i]);
    return n_files > 0 ? 0 : -1;
}

static int drop_tree(void **state) {
    arena_destroy(&memory);
    return scratch_drop(state);
}

/* Calls fn for each line, without its newline. */
static void each_line(const struct file *f, void (*fn)(const struct file *, int number, const char *line, size_t n)) {
    int number = 1;
    for (const char *s = f->text; *s; number++) {
        size_t n = strcspn(s, "\n");
        fn(f, number, s, n);
        s += n + (s[n] == '\n');
    }
}

static int line_count(const char *s) {
    int n = 0;
    for (; *s; s++) n += *s == '\n';
    return n;
}

/* ---- Includes ---- */

static bool listed(const char *list, const char *word, size_t n) {
    for (const char *s = list; (s = strstr(s, word)); s += n)
        if ((s == list || s[-1] == ' ') && (s[n] == ' ' || s[n] == 0)) return true;
    return false;
}

static void check_own(const struct file *f, int number, const char *target) {
    size_t n = strcspn(target, "/");
    const char *room = rooms[f->room].room, *to = arena_strndup(memory, target, n);
    if (target[n] == 0) COMPLAIN("%s:%d: \"%s\": includes are written from the root of the tree", f->path, number, target);
    else if (!listed(rooms[f->room].may_include, to, n))
        COMPLAIN("%s:%d: %s may not include %s (includes point down: %s)", f->path, number, room, target,
                 rooms[f->room].may_include);
    else if (strstr(target, "_priv.h") && strcmp(to, room) != 0 && strcmp(room, "tests") != 0)
        COMPLAIN("%s:%d: %s is private to %s", f->path, number, target, to);
}

static void check_system(const struct file *f, int number, const char *target) {
    const char *room = rooms[f->room].room;
    bool tests = strcmp(room, "tests") == 0;
    if (strcmp(room, "gpu") != 0 && !tests && (strstr(target, "vulkan") || strstr(target, "volk")))
        COMPLAIN("%s:%d: <%s>: only gpu sees Vulkan", f->path, number, target);
    for (size_t i = 0; i < sizeof os_headers / sizeof *os_headers; i++)
        if (strncmp(target, os_headers[i], strlen(os_headers[i])) == 0 && strcmp(room, "base") != 0 && !tests)
            COMPLAIN("%s:%d: <%s>: only base calls the operating system", f->path, number, target);
}

static void include_line(const struct file *f, int number, const char *s, size_t n) {
    const char *end = s + n;
    while (s < end && isspace((unsigned char)*s)) s++;
    if (s == end || *s++ != '#') return;
    while (s < end && isspace((unsigned char)*s)) s++;
    if (end - s < 9 || strncmp(s, "include", 7) != 0) return;
    for (s += 7; s < end && *s != '"' && *s != '<';) s++;
    if (s == end) return;
    const char *close = memchr(s + 1, *s == '<' ? '>' : '"', (size_t)(end - s - 1));
    if (!close) return;
    const char *target = arena_strndup(memory, s + 1, (size_t)(close - s - 1));
    if (*s == '"') check_own(f, number, target);
    else check_system(f, number, target);
}

static void includes_point_down(void **s) {
    n_complaints = 0;
    for (int i = 0; i < n_files; i++)
        if (files[i].room >= 0 && (files[i].is_c || files[i].is_header) && strncmp(files[i].path, "shaders/", 8) != 0)
            each_line(&files[i], include_line);
    assert_int_equal(n_complaints, 0);
}

/* ---- Sizes ---- */

static int function_start, signature_start; /* 0 = outside a function */

/* Functions open with ") {" at the end of a line and close with '}' in column 0. */
static void function_line(const struct file *f, int number, const char *s, size_t n) {
    if (n == 0) return;
    if (function_start) {
        if (s[0] != '}') return;
        if (number - function_start + 1 > MAX_FUNCTION_LINES)
            COMPLAIN("%s:%d: a function of %d lines, at most %d", f->path, function_start, number - function_start + 1,
                     MAX_FUNCTION_LINES);
        function_start = 0;
        return;
    }
    if (isalpha((unsigned char)s[0]) || s[0] == '_') signature_start = number;
    if (n >= 3 && strncmp(s + n - 3, ") {", 3) == 0) function_start = signature_start;
    if (n == 1 && s[0] == '{') function_start = signature_start;
}

static void sizes_stay_small(void **s) {
    n_complaints = 0;
    for (int i = 0; i < n_files; i++) {
        const struct file *f = &files[i];
        int most = f->is_c ? MAX_C_LINES : f->is_header ? MAX_HEADER_LINES : f->is_shader ? MAX_SHADER_LINES : 0;
        int lines = line_count(f->text);
        if (most && lines > most) COMPLAIN("%s: %d lines, at most %d", f->path, lines, most);
        function_start = signature_start = 0;
        if (f->is_c || f->is_header) each_line(f, function_line);
        if (function_start) COMPLAIN("%s:%d: this test lost the end of a function", f->path, function_start);
    }
    assert_int_equal(n_complaints, 0);
}

/* ---- Widths ---- */

/* 0 = any. Tables in Markdown and data may be as wide as they are. */
static int most_columns(const struct file *f) {
    static const char *const code[] = {"def", "inc", "cmake", "sh"};
    if (path_has_ext(f->path, "py")) return MAX_PYTHON_COLUMNS;
    for (size_t i = 0; i < sizeof code / sizeof *code; i++)
        if (path_has_ext(f->path, code[i])) return MAX_COLUMNS;
    return f->is_c || f->is_header || f->is_shader || strncmp(f->text, "#!", 2) == 0 ? MAX_COLUMNS : 0;
}

/* In characters: UTF-8's following bytes do not count. */
static int column_count(const char *s, size_t n) {
    int columns = 0;
    for (size_t i = 0; i < n; i++) columns += ((unsigned char)s[i] & 0xc0) != 0x80;
    return columns;
}

static void width_line(const struct file *f, int number, const char *s, size_t n) {
    int most = most_columns(f), columns = column_count(s, n);
    if (most && columns > most) COMPLAIN("%s:%d: %d columns, at most %d", f->path, number, columns, most);
}

static void lines_stay_short(void **s) {
    assert_int_equal(column_count("\xc3\xa9\xe2\x82\xac!", 6), 3);
    n_complaints = 0;
    for (int i = 0; i < n_files; i++) each_line(&files[i], width_line);
    assert_int_equal(n_complaints, 0);
}

/* ---- Headers ---- */

static void headers_compile_alone(void **s) {
    FILE *list = fopen(scratch_path("headers"), "w");
    assert_non_null(list);
    for (int i = 0; i < n_files; i++)
        if (files[i].is_header && files[i].room >= 0 && strncmp(files[i].path, "shaders/", 8) != 0) /* read by GLSL too */
            fprintf(list, "%s\n", files[i].path);
    fclose(list);
    const char *cc = getenv("CC");
    char *command = arena_printf(memory,
                                 "cd '%s' && xargs -P 2 -I{} %s -std=gnu11 -fsyntax-only -I. -I'%s/generated' "
                                 "-include {} -x c /dev/null < '%s'",
                                 ATELIER_SOURCE_DIR, cc && *cc ? cc : "cc", ATELIER_BINARY_DIR, scratch_path("headers"));
    assert_int_equal(system(command), 0);
}

/* ---- Words that do not belong ---- */

static void word_line(const struct file *f, int number, const char *s, size_t n) {
    /* Split, so that this file passes itself. */
    static const char *const machine[] = {"/wo" "rk/", "/ho" "me/", "/Us" "ers/", "/ro" "ot/"};
    const char *line = arena_strndup(memory, s, n < 4000 ? n : 4000);
    for (size_t i = 0; i < sizeof machine / sizeof *machine; i++)
        if (strstr(line, machine[i])) COMPLAIN("%s:%d: a path of one machine: %s", f->path, number, machine[i]);
    if (strncmp(f->path, "tests/", 6) == 0) return;
    if (strstr(line, "TO" "DO") || strstr(line, "FIX" "ME")) COMPLAIN("%s:%d: unfinished work", f->path, number);
    bool in_room = f->room >= 0 && (f->is_c || f->is_header);
    if (in_room && strncmp(f->path, "base/", 5) != 0 && strstr(line, "fopen("))
        COMPLAIN("%s:%d: files are opened through base/os.h", f->path, number);
    if (in_room && strncmp(f->path, "app/", 4) != 0 && (strstr(line, " exit(") || strstr(line, ";exit(")))
        COMPLAIN("%s:%d: only app ends the program", f->path, number);
}

static void no_stray_words(void **s) {
    n_complaints = 0;
    for (int i = 0; i < n_files; i++) each_line(&files[i], word_line);
    assert_int_equal(n_complaints, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(includes_point_down),
        cmocka_unit_test(sizes_stay_small),
        cmocka_unit_test(lines_stay_short),
        cmocka_unit_test(headers_compile_alone),
        cmocka_unit_test(no_stray_words),
    };
    return cmocka_run_group_tests(tests, load_tree, drop_tree);
}

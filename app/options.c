#include "app/options.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/text.h"
#include "io/json.h"

struct found {
    const struct option *row;
    void *field;
    int index; /* over all tables */
};

static bool find(const struct option_command *cmd, const char *name, size_t n, struct found *out) {
    int index = 0;
    for (int t = 0; t < cmd->n_tables; t++)
        for (int i = 0; i < cmd->tables[t].n; i++, index++) {
            const struct option *row = &cmd->tables[t].rows[i];
            if (strncmp(row->name, name, n) != 0 || row->name[n]) continue;
            *out = (struct found){row, (char *)cmd->tables[t].values + row->at, index};
            return true;
        }
    return false;
}

/* ---- What was meant ---- */

static int distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    int row[65];
    if (n > 64 || m > 64) return 64;
    for (size_t j = 0; j <= m; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

const char *option_nearest(const char *word, const char *const *words, int n) {
    const char *best = NULL;
    int least = (int)strlen(word) / 3 + 2;
    for (int i = 0; i < n; i++) {
        int d = distance(word, words[i]);
        if (strlen(word) >= 3 && strncmp(words[i], word, strlen(word)) == 0) d = 0;
        if (d < least) least = d, best = words[i];
    }
    return best;
}

static bool unknown_option(const struct option_command *cmd, const char *name, struct error *e) {
    const char *names[OPTION_MAX];
    int n = 0;
    for (int t = 0; t < cmd->n_tables; t++)
        for (int i = 0; i < cmd->tables[t].n; i++)
            if (!cmd->tables[t].rows[i].hidden) names[n++] = cmd->tables[t].rows[i].name;
    names[n++] = "help";
    const char *near = option_nearest(name, names, n);
    if (near) return error_set(e, "There is no option --%s; did you mean --%s?", TEXT_SHOW(name), near);
    return error_set(e, "There is no option --%s; --help lists the options.", TEXT_SHOW(name));
}

/* ---- Values ---- */

static bool set_int(const struct option *o, void *field, const char *text, struct error *e) {
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)v < o->min || (double)v > o->max)
        return error_set(e, "--%s must be a whole number from %.0f to %.0f, not \"%s\".", o->name, o->min, o->max,
                         TEXT_SHOW(text));
    *(int *)field = (int)v;
    return true;
}

static bool set_seed(const struct option *o, void *field, const char *text, struct error *e) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (end == text || *end || errno || text[strspn(text, " \t")] == '-')
        return error_set(e, "--%s must be a whole number from 0 to %llu, not \"%s\".", o->name, ~0ull, TEXT_SHOW(text));
    *(uint64_t *)field = v;
    return true;
}

static bool set_number(const struct option *o, void *field, const char *text, struct error *e) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v) || v < o->min || v > o->max)
        return error_set(e, "--%s must be a number from %g to %g, not \"%s\".", o->name, o->min, o->max, TEXT_SHOW(text));
    *(double *)field = v;
    return true;
}

static bool set_choice(const struct option *o, void *field, const char *text, struct error *e) {
    size_t n = strlen(text);
    for (const char *c = o->choices; *c;) {
        size_t m = strcspn(c, "|");
        if (m == n && strncmp(c, text, n) == 0) {
            *(const char **)field = text;
            return true;
        }
        c += m + (c[m] == '|');
    }
    return error_set(e, "--%s must be one of %s, not \"%s\".", o->name, o->choices, TEXT_SHOW(text));
}

static bool set_value(struct arena *a, const struct option *o, void *field, const char *text, struct error *e) {
    switch (o->type) {
    case OPTION_FLAG: *(bool *)field = true; return true;
    case OPTION_INT: return set_int(o, field, text, e);
    case OPTION_SEED: return set_seed(o, field, text, e);
    case OPTION_NUMBER: return set_number(o, field, text, e);
    case OPTION_CHOICE: return set_choice(o, field, text, e);
    case OPTION_TEXT: *(const char **)field = text; return true;
    case OPTION_LIST: {
        struct option_list *list = field;
        list->items = arena_grow(a, list->items, (size_t)list->n, (size_t)list->n + 1, sizeof *list->items);
        list->items[list->n++] = text;
        return true;
    }
    }
    return false;
}

/* ---- --config ---- */

static bool config_value(struct arena *a, const char *file, const struct found *f, const json_t *v, struct error *e) {
    const char *text = NULL;
    if (json_is_string(v)) text = arena_strdup(a, json_string_value(v));
    if (json_is_integer(v)) text = arena_printf(a, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    if (json_is_real(v)) text = arena_printf(a, "%.17g", json_real_value(v));
    if (json_is_boolean(v) && f->row->type == OPTION_FLAG) {
        *(bool *)f->field = json_is_true(v);
        return true;
    }
    if (!text || f->row->type == OPTION_FLAG)
        return error_set(e, "%s: the value of \"%s\" does not fit that option.", file, f->row->name);
    return set_value(a, f->row, f->field, text, e) || error_prefix(e, "%s", file);
}

/* Options given on the command line win; a list given there replaces the file's. */
static bool config_apply(const struct option_command *cmd, const char *file, struct arena *a, struct option_result *out,
                         struct error *e) {
    json_t *o = json_file_load(file, 0, e);
    if (!o) return false;
    bool from_line[OPTION_MAX], ok = true;
    memcpy(from_line, out->given, sizeof from_line);
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v) {
        struct found f;
        if (!strcmp(key, "config") || !strcmp(key, "help"))
            ok = error_set(e, "%s: --%s belongs on the command line, not into a file of options.", file, key);
        else if (!find(cmd, key, strlen(key), &f))
            ok = unknown_option(cmd, key, e) || error_prefix(e, "%s", file);
        else if (!from_line[f.index]) {
            out->given[f.index] = true;
            size_t n = json_is_array(v) && f.row->type == OPTION_LIST ? json_array_size(v) : 1;
            for (size_t i = 0; ok && i < n; i++)
                ok = config_value(a, file, &f, n == 1 && !json_is_array(v) ? v : json_array_get(v, i), e);
        }
        if (!ok) break;
    }
    json_decref(o);
    return ok;
}

/* ---- The command line ---- */

struct setting {
    struct found f;
    const char *text;
};

static bool take_option(const struct option_command *cmd, int argc, char **argv, int *i, struct setting *s, struct error *e) {
    const char *name = argv[*i] + 2;
    size_t n = strcspn(name, "=");
    if (!find(cmd, name, n, &s->f)) {
        char word[80];
        snprintf(word, sizeof word, "%.*s", n < 79 ? (int)n : 79, name);
        return unknown_option(cmd, word, e);
    }
    bool flag = s->f.row->type == OPTION_FLAG, inside = name[n] == '=';
    if (flag && inside) return error_set(e, "--%s takes no value.", s->f.row->name);
    s->text = inside ? name + n + 1 : NULL;
    if (flag || inside) return true;
    if (*i + 1 >= argc) return error_set(e, "--%s needs a value: --%s %s.", s->f.row->name, s->f.row->name, s->f.row->value);
    s->text = argv[++*i];
    return true;
}

static bool check_required(const struct option_command *cmd, const struct option_result *r, struct error *e) {
    int index = 0;
    for (int t = 0; t < cmd->n_tables; t++)
        for (int i = 0; i < cmd->tables[t].n; i++, index++) {
            const struct option *row = &cmd->tables[t].rows[i];
            if (row->required && !r->given[index])
                return error_set(e, "--%s %s is needed; usage: atelier %s", row->name, row->value, cmd->usage);
        }
    if (r->n_args < cmd->min_args)
        return error_set(e, "A %s is needed; usage: atelier %s", cmd->args_name, cmd->usage);
    return true;
}

static bool split(const struct option_command *cmd, int argc, char **argv, struct setting *settings, int *n,
                  struct option_result *out, struct error *e) {
    bool words_only = false;
    for (int i = 0; i < argc; i++) {
        const char *w = argv[i];
        if (words_only || strncmp(w, "--", 2) != 0) {
            bool is_help = !strcmp(w, "-h") && !words_only;
            if (is_help) out->help = true;
            else if (w[0] == '-' && w[1] && !words_only)
                return error_set(e, "Options begin with two dashes: there is no %s; --help lists them.", TEXT_SHOW(w));
            else if (out->n_args >= cmd->max_args)
                return error_set(e, "\"%s\" is one word too many; texts with spaces need quotes. Usage: atelier %s",
                                 TEXT_SHOW(w), cmd->usage);
            else out->args[out->n_args++] = w;
            continue;
        }
        if (!strcmp(w, "--")) words_only = true;
        else if (!strcmp(w, "--help")) out->help = true;
        else if (!take_option(cmd, argc, argv, &i, &settings[*n], e)) return false;
        else out->given[settings[(*n)++].f.index] = true;
    }
    return true;
}

bool option_parse(const struct option_command *cmd, int argc, char **argv, struct arena *a, struct option_result *out,
                  struct error *e) {
    *out = (struct option_result){.args = arena_alloc_n(a, (size_t)argc + 1, sizeof *out->args)};
    struct setting *settings = arena_alloc_n(a, (size_t)argc + 1, sizeof *settings);
    int n = 0;
    for (int i = 0; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help")) out->help = true;
    if (out->help) return true;
    if (!split(cmd, argc, argv, settings, &n, out, e)) return false;
    if (out->help) return true;
    const char *config = NULL;
    for (int i = 0; i < n; i++)
        if (!strcmp(settings[i].f.row->name, "config")) config = settings[i].text;
    if (config && !config_apply(cmd, config, a, out, e)) return false;
    for (int i = 0; i < n; i++)
        if (!set_value(a, settings[i].f.row, settings[i].f.field, settings[i].text, e)) return false;
    return check_required(cmd, out, e);
}

bool option_preset(const struct option_command *cmd, const struct option_result *r, const char *name, const char *text,
                   struct arena *a, struct error *e) {
    struct found f;
    bool known = find(cmd, name, strlen(name), &f);
    assert(known);
    return r->given[f.index] || set_value(a, f.row, f.field, text, e);
}

bool option_given(const struct option_command *cmd, const struct option_result *r, const char *name) {
    struct found f;
    return find(cmd, name, strlen(name), &f) && r->given[f.index];
}

/* ---- --help ---- */

static void print_default(const struct option *o, const void *field) {
    switch (o->type) {
    case OPTION_INT:
        if (*(const int *)field) printf(" (%d)", *(const int *)field);
        break;
    case OPTION_NUMBER:
        if (*(const double *)field != 0 && !isnan(*(const double *)field)) printf(" (%g)", *(const double *)field);
        break;
    case OPTION_TEXT:
    case OPTION_CHOICE:
        if (*(const char *const *)field) printf(" (%s)", *(const char *const *)field);
        break;
    default: break;
    }
}

static void print_row(const struct option *o, const void *values) {
    char left[80];
    enum { COLUMN = 30 };
    snprintf(left, sizeof left, "  --%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
    printf("%-*s", COLUMN, left);
    if (strlen(left) >= COLUMN) printf("\n%*s", COLUMN, "");
    const char *line = o->help;
    while (*line) {
        size_t n = strcspn(line, "\n");
        printf("%.*s", (int)n, line);
        line += n;
        if (*line) printf("\n%*s", COLUMN, ""), line++;
    }
    if (o->type == OPTION_LIST) printf("; may be repeated");
    else if (!o->required) print_default(o, (const char *)values + o->at);
    printf("\n");
}

void option_print_help(const struct option_command *cmd) {
    printf("usage: atelier %s\n\n%s\n", cmd->usage, cmd->about);
    for (int t = 0; t < cmd->n_tables; t++) {
        printf("\n");
        for (int i = 0; i < cmd->tables[t].n; i++)
            if (!cmd->tables[t].rows[i].hidden) print_row(&cmd->tables[t].rows[i], cmd->tables[t].values);
    }
}

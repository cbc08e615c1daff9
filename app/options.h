/* Command line options as tables. A command has a struct of values and a table saying which option fills which field;
 * parsing, range checks, --help and --config FILE follow from the table.
 *
 * Written as --name value or --name=value; flags as --name. What an option does not set keeps the value that the
 * struct had before, which --help shows as the default. */
#ifndef ATELIER_APP_OPTIONS_H
#define ATELIER_APP_OPTIONS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct arena;

enum option_type {
    OPTION_FLAG,   /* bool */
    OPTION_INT,    /* int, min..max */
    OPTION_SEED,   /* uint64_t */
    OPTION_NUMBER, /* double, min..max */
    OPTION_TEXT,   /* const char *; NULL: not given */
    OPTION_CHOICE, /* const char *, one of `choices` */
    OPTION_LIST    /* struct option_list; may be repeated */
};
struct option_list {
    const char **items;
    int n;
};
struct option {
    const char *name; /* without dashes */
    enum option_type type;
    size_t at;         /* offset of the field */
    const char *value; /* how --help calls the value; NULL for flags */
    const char *help;  /* '\n' starts a new line */
    double min, max;
    const char *choices; /* "a|b|c" */
    bool required, hidden;
};
struct option_table {
    const struct option *rows;
    int n;
    void *values;
};
#define OPTION_ROWS(array) (array), (int)(sizeof(array) / sizeof *(array))

enum { OPTION_MAX_TABLES = 8, OPTION_MAX = 160 };
struct option_command {
    const char *usage; /* "generate --model DIR --prompt TEXT [options]" */
    const char *about;
    struct option_table tables[OPTION_MAX_TABLES];
    int n_tables;
    int min_args, max_args; /* words that are no options */
    const char *args_name;  /* what such a word is, for messages: "file" */
};
struct option_result {
    bool help; /* --help was there; nothing else was checked */
    bool given[OPTION_MAX]; /* by row over all tables; see option_given */
    const char **args;
    int n_args;
};

/* Fills the tables' values; texts live in `a` or in argv. --config FILE reads a JSON object whose keys are option names
 * (lists as arrays) as defaults beneath the command line. False with a sentence for anything unknown, out of range
 * or missing. */
bool option_parse(const struct option_command *cmd, int argc, char **argv, struct arena *a, struct option_result *out,
                  struct error *e);
/* Sets an option that was not given, from text, as --config would: for defaults that are known only after parsing. The name
 * must be a row's. */
bool option_preset(const struct option_command *cmd, const struct option_result *r, const char *name, const char *text,
                   struct arena *a, struct error *e);
bool option_given(const struct option_command *cmd, const struct option_result *r, const char *name);

/* Prints usage, about and every option with its default to stdout. Call before option_parse fills the values. */
void option_print_help(const struct option_command *cmd);

/* The one of n words nearest to `word`, or NULL where none is near enough to be meant. */
const char *option_nearest(const char *word, const char *const *words, int n);

#endif

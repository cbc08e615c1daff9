/* The commands of `atelier`. Each parses its own options, prints results to stdout, and returns false with one
 * sentence after cleaning up. */
#ifndef ATELIER_APP_COMMANDS_H
#define ATELIER_APP_COMMANDS_H

#include "base/error.h"

bool cmd_generate(int argc, char **argv, struct error *e);
bool cmd_stylize(int argc, char **argv, struct error *e);
bool cmd_convert(int argc, char **argv, struct error *e);
bool cmd_merge_into(int argc, char **argv, struct error *e);
bool cmd_extract(int argc, char **argv, struct error *e);
bool cmd_resize(int argc, char **argv, struct error *e);
bool cmd_merge(int argc, char **argv, struct error *e);
bool cmd_devices(int argc, char **argv, struct error *e);
bool cmd_inspect(int argc, char **argv, struct error *e);
bool cmd_bench(int argc, char **argv, struct error *e);
bool cmd_distill(int argc, char **argv, struct error *e);
bool cmd_train(int argc, char **argv, struct error *e);

#endif

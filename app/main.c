/* atelier: commands, exit codes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "app/commands.h"
#include "app/options.h"
#include "base/os.h"
#include "base/text.h"

static const struct {
    const char *name, *about;
    bool (*run)(int argc, char **argv, struct error *e);
} commands[] = {
    {"train", "train a LoRA from a folder of pictures", cmd_train},
    {"distill", "train a LoRA that draws in few steps", cmd_distill},
    {"generate", "make pictures from prompts, with LoRAs", cmd_generate},
    {"stylize", "restyle a folder of pictures", cmd_stylize},
    {"inspect", "say what a model folder, LoRA file or PNG is", cmd_inspect},
    {"convert", "write a LoRA in another program's spelling", cmd_convert},
    {"resize", "write a LoRA at another rank", cmd_resize},
    {"extract", "make a LoRA of the difference of two models", cmd_extract},
    {"merge", "make one LoRA of several", cmd_merge},
    {"merge-into", "bake LoRAs into a model", cmd_merge_into},
    {"devices", "list the Vulkan devices", cmd_devices},
    {"bench", "time kernels and whole steps", cmd_bench},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_usage(void) {
    printf("usage: atelier COMMAND [options]\n\nStable Diffusion LoRAs, trained and used on Vulkan.\n\n");
    for (int i = 0; i < N_COMMANDS; i++) printf("  %-10s %s\n", commands[i].name, commands[i].about);
    printf("\n`atelier COMMAND --help` lists the options of a command.\n");
}

static bool unknown_command(const char *word, struct error *e) {
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *near = option_nearest(word, names, N_COMMANDS);
    if (near) return error_set(e, "There is no command \"%s\"; did you mean \"%s\"?", TEXT_SHOW(word), near);
    return error_set(e, "There is no command \"%s\"; `atelier --help` lists the commands.", TEXT_SHOW(word));
}

static bool run(int argc, char **argv, struct error *e) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name)) return commands[i].run(argc - 2, argv + 2, e);
    return unknown_command(argv[1], e);
}

/* Who reads the first lines alone, as `head` does, has what they asked for. */
static bool printed(struct error *e) {
    return !fflush(stdout) || errno == EPIPE || error_set(e, "Printing failed: is the disk full?");
}

int main(int argc, char **argv) {
    bool help = argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"));
    if (argc < 2 || help) {
        print_usage();
        return argc < 2;
    }
    struct error e = {0};
    os_process_prepare();
    os_interrupt_install();
    bool ok = run(argc, argv, &e);
    if (ok) ok = printed(&e);
    if (!ok) fprintf(stderr, "atelier: %s\n", e.text);
    return ok ? 0 : 1;
}

#include <stdio.h>

#include "app/commands.h"
#include "app/common.h"

bool cmd_devices(int argc, char **argv, struct error *e) {
    struct option_command cmd = {.usage = "devices",
                                 .about = "Lists the Vulkan devices; --device takes an index or part of a name."};
    struct option_result r;
    struct arena *a = arena_create(NULL);
    bool ok = option_parse(&cmd, argc, argv, a, &r, e);
    arena_destroy(&a);
    if (!ok) return false;
    if (r.help) {
        option_print_help(&cmd);
        return true;
    }
    static struct gpu_listing list[32];
    int n = gpu_device_list(list, 32, e);
    if (n < 0) return false;
    if (!n)
        return error_set(e, "Vulkan found no device on this machine; install a driver (for the CPU device on Debian: "
                            "mesa-vulkan-drivers).");
    printf("%-3s %-11s %-10s %-8s %s\n", "#", "kind", "memory", "subgroup", "name");
    for (int i = 0; i < n; i++) {
        char bytes[COMMON_BYTES_TEXT];
        printf("%-3d %-11s %-10s %-8u %s, %s", i, list[i].kind, common_bytes_text(list[i].memory_bytes, bytes),
               list[i].subgroup, list[i].name, list[i].driver);
        printf("%s%s\n", list[i].usable ? "" : "; cannot be used: ", list[i].usable ? "" : list[i].reason);
    }
    return true;
}

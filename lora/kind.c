#include "lora/kind.h"

#include <string.h>

#define LORA_KIND(id) extern const struct lora_kind lora_kind_##id;
#include "lora/kinds.def"
#undef LORA_KIND

const struct lora_kind *lora_kind_find(const char *name) {
    static const struct lora_kind *const kinds[] = {
#define LORA_KIND(id) &lora_kind_##id,
#include "lora/kinds.def"
#undef LORA_KIND
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    return NULL;
}

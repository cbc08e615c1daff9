/* Which model family an adapter was made for. Layers of one size occur in all of them, so a file for another family
 * would go on in part; the width of the text that cross-attention reads tells them apart. */
#ifndef ATELIER_LORA_FAMILY_H
#define ATELIER_LORA_FAMILY_H

#include "lora/file.h"

/* "Stable Diffusion 1" for 768, ...; NULL for a width that no published family has. */
const char *lora_family_name(int64_t text_width);

/* False with a sentence that names both families if the file was made for another one than the keys' model. What the
 * file's layers say counts before what its metadata says. */
bool lora_family_check(const struct lora_file *f, const struct lora_keys *keys, struct error *e);

/* What a file says or shows about its family: "SDXL", "text of width 320"; NULL where it says nothing. Memory from a. */
const char *lora_family_of_file(const struct lora_file *f, struct arena *a);

#endif

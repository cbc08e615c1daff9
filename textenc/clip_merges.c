#include "textenc/clip_merges.h"

/* CMakeLists.txt says where the file is. */
__asm__(".section .rodata\n"
        "clip_merges_begin: .incbin \"" ATELIER_CLIP_MERGES "\"\n"
        "clip_merges_end:\n"
        ".previous\n");
extern const char clip_merges_begin[], clip_merges_end[];

const char *clip_merges(size_t *bytes) {
    *bytes = (size_t)(clip_merges_end - clip_merges_begin);
    return clip_merges_begin;
}

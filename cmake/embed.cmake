# Writes one C file with every SPIR-V module pulled in by the assembler, and a name-sorted table.
string(CONCAT text "/* generated */\n#include <stddef.h>\n#include <stdint.h>\n"
  "struct shader_blob { const char *name; const uint32_t *words; size_t bytes; };\n")
set(table "")
set(n 0)
list(SORT FILES)
foreach(file ${FILES})
  get_filename_component(name ${file} NAME_WLE)
  string(APPEND text "__asm__(\".section .rodata\\n.balign 16\\n.global spv_${n}\\nspv_${n}:\\n.incbin \\\"${file}\\\"\\n"
    ".global spv_${n}_end\\nspv_${n}_end:\\n.previous\\n\");\nextern const uint32_t spv_${n}[], spv_${n}_end[];\n")
  string(APPEND table "  if (i == ${n}) return (struct shader_blob){\"${name}\", spv_${n}, "
    "(size_t)((const char *)spv_${n}_end - (const char *)spv_${n})};\n")
  math(EXPR n "${n}+1")
endforeach()
string(APPEND text "size_t shader_blob_count(void);\nsize_t shader_blob_count(void) { return ${n}; }\n"
  "struct shader_blob shader_blob_at(size_t i);\n"
  "struct shader_blob shader_blob_at(size_t i) {\n${table}  return (struct shader_blob){0};\n}\n")
file(WRITE ${OUT} "${text}")

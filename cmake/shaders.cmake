# Compiles every shaders/*.comp once per storage type it supports and embeds the SPIR-V.
#   name.comp           -> name            (32-bit storage)
#   a first line "// storage: f32 f16" adds name_f16 compiled with -DSTORE_F16
set(SPV_DIR ${CMAKE_BINARY_DIR}/spv)
file(MAKE_DIRECTORY ${SPV_DIR} ${CMAKE_BINARY_DIR}/generated)
file(GLOB shader_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/shaders/*.comp)
file(GLOB shader_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/shaders/lib/*.glsl ${CMAKE_SOURCE_DIR}/shaders/push/*.h)
set(spv_files)
foreach(source ${shader_sources})
  get_filename_component(name ${source} NAME_WE)
  file(STRINGS ${source} storage_line LIMIT_COUNT 1 REGEX "^// storage:")
  set(variants "${name}:")
  if(storage_line MATCHES "f16")
    list(APPEND variants "${name}_f16:-DSTORE_F16=1")
  endif()
  foreach(variant ${variants})
    string(REPLACE ":" ";" parts ${variant})
    list(GET parts 0 out)
    list(LENGTH parts n_parts)
    set(define)
    if(n_parts GREATER 1)
      list(GET parts 1 define)
    endif()
    add_custom_command(OUTPUT ${SPV_DIR}/${out}.spv
      COMMAND ${GLSLANG} --quiet -V --target-env vulkan1.2 -I${CMAKE_SOURCE_DIR}/shaders ${define} -o ${SPV_DIR}/${out}.spv ${source}
      DEPENDS ${source} ${shader_headers} VERBATIM)
    list(APPEND spv_files ${SPV_DIR}/${out}.spv)
  endforeach()
endforeach()
set(embedded ${CMAKE_BINARY_DIR}/generated/shader_blobs.c)
add_custom_command(OUTPUT ${embedded}
  COMMAND ${CMAKE_COMMAND} -DOUT=${embedded} "-DFILES=${spv_files}" -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${spv_files} ${CMAKE_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
add_library(atelier_shaders STATIC ${embedded})

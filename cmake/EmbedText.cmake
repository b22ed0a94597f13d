# Text files as string literals of a generated header, so that the program needs no file beside it.
#   ceiling_embed(TARGET report_page.h kReport train/compare/page.html ...)
# gives generated/report_page.h with kReport_page_html and so on, rebuilt when a file changes.
if(CMAKE_SCRIPT_MODE_FILE)  # the build's own call: OUTPUT, PREFIX, FILES separated by '|'
  string(REPLACE "|" ";" files "${FILES}")
  set(header "// Written by cmake/EmbedText.cmake.\n#pragma once\n#include <string_view>\n\nnamespace ceiling {\n")
  foreach(file IN LISTS files)
    file(READ ${file} text)
    cmake_path(GET file FILENAME name)
    string(REPLACE "." "_" name ${name})
    string(APPEND header "inline constexpr char ${PREFIX}_${name}[] = R\"embedded(${text})embedded\";\n")
  endforeach()
  file(WRITE ${OUTPUT} "${header}}  // namespace ceiling\n")
  return()
endif()

set(embed_script ${CMAKE_CURRENT_LIST_FILE})
function(ceiling_embed target header prefix)
  list(TRANSFORM ARGN PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE files)
  list(JOIN files "|" joined)
  set(output ${CMAKE_BINARY_DIR}/generated/${header})
  add_custom_command(OUTPUT ${output} DEPENDS ${files} ${embed_script} VERBATIM
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} -DPREFIX=${prefix} -DFILES=${joined} -P ${embed_script})
  target_sources(${target} PRIVATE ${output})
  target_include_directories(${target} PRIVATE ${CMAKE_BINARY_DIR}/generated)
endfunction()

# Adds the kernels of this folder to llama.cpp's CPU library, in front of its own repacked ones. llama.cpp has no way to
# register a buffer type from outside, so a copy of the file that lists them, with a few lines more, takes its place.
# Where that file is not as expected, the library is built without the kernels. A library that has them names their
# formats among its features (`LLMRUN = Q4_0,…`), so that nothing else need be believed.

set(LLMRUN_KERNELS_FOLDER ${CMAKE_CURRENT_LIST_DIR})

function(llmrun_add_kernels)
  set(file "ggml-cpu/ggml-cpu.cpp")
  get_target_property(folder ggml-cpu SOURCE_DIR)
  get_target_property(sources ggml-cpu SOURCES)
  file(READ "${folder}/${file}" text)

  set(include "#include \"repack.h\"\n")
  set(types "#ifdef GGML_USE_CPU_REPACK\n        if (ggml_backend_cpu_repack_buffer_type()) {\n")
  set(features "    #ifdef GGML_USE_CPU_REPACK\n        features.push_back(")
  foreach(anchor "${include}" "${types}" "${features}")
    string(FIND "${text}" "${anchor}" found)
    if(found EQUAL -1 OR NOT "${file}" IN_LIST sources)
      message(WARNING "llmrun's kernels are left out: ${folder}/${file} is not as expected")
      return()
    endif()
  endforeach()
  set(new_type "if (auto type = llmrun_packed_buffer_type()) {\n            bufts.push_back(type);\n        }\n")
  set(new_feature "    if (llmrun_packed_buffer_type()) {\n        features.push_back({ \"LLMRUN\", LLMRUN_FORMATS });\n    }\n")
  string(REPLACE "${include}" "${include}#include \"buffer_type.h\"\n" text "${text}")
  string(REPLACE "${types}" "${new_type}${types}" text "${text}")
  string(REPLACE "${features}" "${new_feature}${features}" text "${text}")

  set(copy "${CMAKE_BINARY_DIR}/llmrun-kernels/ggml-cpu.cpp")
  file(CONFIGURE OUTPUT "${copy}" CONTENT "${text}" @ONLY)
  list(TRANSFORM sources REPLACE "^${file}$" "${copy}")
  list(APPEND sources "${LLMRUN_KERNELS_FOLDER}/buffer_type.cpp")
  set_target_properties(ggml-cpu PROPERTIES SOURCES "${sources}")
  target_include_directories(ggml-cpu PRIVATE "${LLMRUN_KERNELS_FOLDER}")
  message(STATUS "llmrun's kernels are added to ${file}")
endfunction()

cmake_language(DEFER CALL llmrun_add_kernels)

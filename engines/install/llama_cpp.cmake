# Included by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE), to build the part of
# it that the Python package loads, and nothing else. What each line saves was measured on 2 cores with Clang 19.

# llama-common is for llama.cpp's own programs. The Python package forces the cached option ON; a plain variable wins.
set(LLAMA_BUILD_COMMON OFF)

# Warnings of a pinned release help nobody, and compile time goes into finding them.
set(LLAMA_ALL_WARNINGS OFF)

# llama.cpp installs headers, CMake files and a second copy of every library at the top of site-packages. They go into
# a component that is not installed.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME llama_cpp_development)

# A wheel cannot hold symbolic links, so libllama.so, libllama.so.0 and libllama.so.0.5.0 would be three copies.
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)

# Half of the work is parsing the same headers again: precompiled once, they save 15 seconds of processor time.
function(llmrun_precompile_headers)
  set(headers "${CMAKE_CURRENT_SOURCE_DIR}/src/models/models.h")
  foreach(name algorithm functional map regex set sstream string thread unordered_map vector)
    list(APPEND headers "<${name}$<ANGLE-R>")
  endforeach()
  list(TRANSFORM headers REPLACE "(.+)" "$<$<COMPILE_LANGUAGE:CXX>:\\1>")
  target_precompile_headers(llama PRIVATE ${headers})
endfunction()

# LLVM's OpenMP runtime belongs to a system package that an upgrade may remove; next to the library (whose search path
# is its own folder) it stays.
function(llmrun_bundle_openmp)
  if(NOT GGML_OPENMP OR APPLE OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    return()
  endif()
  foreach(name libomp.so.5 libomp.so)
    execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=${name}
                    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(IS_ABSOLUTE "${found}" AND EXISTS "${found}")
      file(REAL_PATH "${found}" found)
      install(FILES "${found}" RENAME ${name} COMPONENT Unspecified
              DESTINATION "${SKBUILD_PLATLIB_DIR}/llama_cpp/lib")
      return()
    endif()
  endforeach()
endfunction()

# Functions for llmrun's adapter: one finds the most likely tokens, among what is compiled for this very processor, and
# one decodes with it, among what may call it.
set(LLMRUN_CANDIDATES "${CMAKE_CURRENT_LIST_DIR}/candidates")
function(llmrun_add_candidates)
  if(TARGET ggml-cpu)
    target_sources(ggml-cpu PRIVATE "${LLMRUN_CANDIDATES}/top_candidates.cpp")
    if(NOT GGML_BACKEND_DL)
      target_sources(llama PRIVATE "${LLMRUN_CANDIDATES}/decode_burst.cpp")
    endif()
  endif()
endfunction()

cmake_language(DEFER CALL llmrun_add_candidates)
if(LLMRUN_KERNELS)
  include("${CMAKE_CURRENT_LIST_DIR}/kernels/kernels.cmake")
endif()

cmake_language(DEFER CALL llmrun_precompile_headers)
cmake_language(DEFER CALL llmrun_bundle_openmp)

# One place for the flags of every target. Libraries' headers are system headers, so that
# their warnings do not stop a build.
add_library(swinfleet_options INTERFACE)
target_include_directories(swinfleet_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(swinfleet_options INTERFACE -Wall -Wextra -Wno-unused-parameter)
# GCC 12 sees overlapping copies in "literal" + std::string where there are none (its bug 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(swinfleet_options INTERFACE -Wno-restrict)
endif()
if(SWINFLEET_WERROR)
  target_compile_options(swinfleet_options INTERFACE -Werror)
endif()
if(SWINFLEET_SANITIZE)
  target_compile_options(swinfleet_options INTERFACE -fsanitize=address,undefined
                         -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  # What sanitizers add to the code makes GCC take standard containers for uninitialised (its manual
  # says so of -Wmaybe-uninitialized); the release build keeps that warning.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(swinfleet_options INTERFACE -Wno-maybe-uninitialized)
  endif()
  target_link_options(swinfleet_options INTERFACE -fsanitize=address,undefined)
endif()
if(SWINFLEET_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "SWINFLEET_FUZZ needs Clang, since libFuzzer is part of it: use the preset fuzz")
  endif()
  target_compile_options(swinfleet_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

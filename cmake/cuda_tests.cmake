# How kernels are tested on the CPU, by the emulator in tests/cuda_emulator, from the sources that
# nvcc compiles. These are compiled three times: as they are; with the address and undefined-behaviour
# sanitizers; and with the thread sanitizer's calls, which go to the race checker. Tests are compiled
# once and linked to each.
find_package(Boost REQUIRED COMPONENTS context)

# Fibers switch stacks under the compiler's feet, and kernels read one type through another's pointer.
set(cuda_emulator_flags -g1 -fno-strict-aliasing)
set(cuda_source_flags "SHELL:-include tests/cuda_emulator/device.h" -Wno-unknown-pragmas)
set(cuda_flags_plain -O2)
set(cuda_flags_asan -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
set(cuda_flags_race -O2 -fsanitize=thread)
# In a tree that is built with sanitizers everything has them, and the other two add nothing.
set(cuda_variants plain asan race)
if(SWINFLEET_SANITIZE)
  set(cuda_variants plain)
endif()

# cuda_emulated(NAME VARIANT SOURCES a.cu...): an object library of emulated CUDA sources.
function(cuda_emulated name variant)
  cmake_parse_arguments(T "" "" "SOURCES" ${ARGN})
  add_library(${name} OBJECT ${T_SOURCES})
  set_source_files_properties(${T_SOURCES} PROPERTIES LANGUAGE CXX)
  target_link_libraries(${name} PRIVATE swinfleet_options PkgConfig::GLOG)
  target_include_directories(${name} SYSTEM PRIVATE ${SWINFLEET_CUDA_INCLUDE})
  target_compile_options(${name} PRIVATE ${cuda_emulator_flags} ${cuda_source_flags}
                         ${cuda_flags_${variant}})
endfunction()

set(cuda_emulator_of_plain cuda_emulator_plain)
set(cuda_emulator_of_asan cuda_emulator_asan)
set(cuda_emulator_of_race cuda_emulator_plain)

# cuda_test(NAME KERNELS a.cu... OBJECTS target... LIBS target... EXCEPT pattern... LARGE pattern...): a
# GoogleTest program for each way in which the CUDA sources are compiled; its tests are known to ctest
# as cuda.VARIANT.TEST. EXCEPT those that are about something else; LARGE ones run as they are alone.
function(cuda_test name)
  cmake_parse_arguments(T "" "" "KERNELS;OBJECTS;LIBS;EXCEPT;LARGE" ${ARGN})
  foreach(variant ${cuda_variants})
    set(except ${T_EXCEPT})
    if(NOT variant STREQUAL plain)
      list(APPEND except ${T_LARGE})
    endif()
    set(filter)
    if(except)
      list(JOIN except ":" except)
      set(filter TEST_FILTER "-${except}")
    endif()
    cuda_emulated(${name}_kernels_${variant} ${variant} SOURCES ${T_KERNELS})
    set(program ${name}_${variant})
    set(objects $<TARGET_OBJECTS:${name}_kernels_${variant}>
        $<TARGET_OBJECTS:${cuda_emulator_of_${variant}}>)
    foreach(object ${T_OBJECTS})
      list(APPEND objects $<TARGET_OBJECTS:${object}>)
    endforeach()
    add_executable(${program} ${objects})
    set_target_properties(${program} PROPERTIES LINKER_LANGUAGE CXX
                          RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_link_libraries(${program} PRIVATE swinfleet_options ${T_LIBS} Boost::context GTest::gtest
                          GTest::gtest_main)
    if(variant STREQUAL asan)
      target_link_options(${program} PRIVATE -fsanitize=address,undefined)
    endif()
    gtest_discover_tests(${program} TEST_PREFIX cuda.${variant}. DISCOVERY_MODE PRE_TEST ${filter}
                         PROPERTIES LABELS fast TIMEOUT 300)
  endforeach()
endfunction()

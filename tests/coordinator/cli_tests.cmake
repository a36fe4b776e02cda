# Tests of the command line and the supervisor; they run the built `swinfleet`.
swinfleet_test(cli_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/cli_test.cc
               LIBS swinfleet_cli GTest::gtest_main)
add_dependencies(cli_test swinfleet)
swinfleet_test(cli_format_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/cli_format_test.cc
               LIBS swinfleet_cli GTest::gtest_main)
swinfleet_test(supervisor_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/supervisor_test.cc
               LIBS swinfleet_supervisor nlohmann_json::nlohmann_json GTest::gtest_main)
add_dependencies(supervisor_test swinfleet)
swinfleet_test(supervisor_parts_test SOURCES ${CMAKE_CURRENT_LIST_DIR}/supervisor_parts_test.cc
               LIBS swinfleet_supervisor GTest::gtest_main)

// Numbers, times and tables for people, fitted to what the output can show.
#ifndef SWINFLEET_COORDINATOR_CLI_FORMAT_H_
#define SWINFLEET_COORDINATOR_CLI_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace swinfleet {

// What standard output is.
struct Screen {
  // A terminal that understands cursor movements; otherwise a file or a pipe.
  bool live = false;
  // Characters beyond ASCII can be shown.
  bool unicode = true;
  // Columns; only of a terminal.
  int width = 80;
};

// Looks at standard output and the environment. The locale must have been set.
Screen DetectScreen();

// Text of a peer, made safe for this screen.
std::string Safe(const std::string& text, const Screen& screen);

// Columns that `text` (escaped UTF-8) takes on a terminal.
int DisplayWidth(const std::string& text);

// `text` cut to `width` columns, with a mark that something is missing.
std::string Shorten(const std::string& text, int width, const Screen& screen);

// "8s", "3m12s", "1h02m", "2d03h"; "?" for what isn't a time.
std::string FormatDuration(double seconds);
// Local time, "2024-05-31 14:03:59"; "-" for 0.
std::string FormatTime(double seconds_since_1970);
// "512 MiB", "1.5 GiB"; "-" for 0.
std::string FormatBytes(uint64_t bytes);
// Four significant digits.
std::string FormatNumber(double value);
// "86.91%"
std::string FormatShare(double share);

// A bar of `width` columns, filled up to `share` (0..1).
std::string FormatBar(double share, int width, const Screen& screen);

// Rows of cells as lines of aligned columns, two blanks between them. The first row is the heading.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// `items` side by side, three blanks between them, on as many lines of `width` columns as they
// need.
std::vector<std::string> FlowItems(const std::vector<std::string>& items, int width);

// Writes to standard output and flushes. Returns false when nobody can read it any more.
bool Print(const std::string& text);

}  // namespace swinfleet

#endif  // SWINFLEET_COORDINATOR_CLI_FORMAT_H_

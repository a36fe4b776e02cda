#include "coordinator/cli/format.h"

#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "coordinator/supervisor/escape.h"
#include "proto/text.h"

namespace swinfleet {
namespace {

std::string Formatted(const char* format, double value) {
  char buffer[64];
  std::snprintf(buffer, sizeof(buffer), format, value);
  return buffer;
}

}  // namespace

Screen DetectScreen() {
  Screen screen;
  if (isatty(STDOUT_FILENO) == 0) return screen;
  const char* terminal = std::getenv("TERM");
  screen.live = terminal != nullptr && std::strcmp(terminal, "dumb") != 0 && terminal[0] != '\0';
  screen.unicode = std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
  winsize size = {};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) screen.width = size.ws_col;
  return screen;
}

std::string Safe(const std::string& text, const Screen& screen) {
  return EscapeForTerminal(text, screen.unicode);
}

int DisplayWidth(const std::string& text) {
  int width = 0;
  for (size_t position = 0; position < text.size();) {
    const int32_t code = NextCodePoint(text, &position);
    const int columns = code < 0x80 ? 1 : wcwidth(static_cast<wchar_t>(code));
    // Unknown to this C library or locale: one column is the best guess.
    width += columns < 0 ? 1 : columns;
  }
  return width;
}

std::string Shorten(const std::string& text, int width, const Screen& screen) {
  if (DisplayWidth(text) <= width) return text;
  const std::string mark = screen.unicode ? "…" : "~";
  std::string out;
  int used = 1;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    NextCodePoint(text, &position);
    const std::string character = text.substr(start, position - start);
    used += DisplayWidth(character);
    if (used > width) break;
    out += character;
  }
  return width < 1 ? "" : out + mark;
}

std::string FormatDuration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  char buffer[48];
  if (whole < 60) {
    std::snprintf(buffer, sizeof(buffer), "%ds", static_cast<int>(whole));
  } else if (whole < 3600) {
    std::snprintf(buffer, sizeof(buffer), "%dm%02ds", static_cast<int>(whole / 60),
                  static_cast<int>(whole % 60));
  } else if (whole < 86400) {
    std::snprintf(buffer, sizeof(buffer), "%dh%02dm", static_cast<int>(whole / 3600),
                  static_cast<int>(whole / 60 % 60));
  } else {
    std::snprintf(buffer, sizeof(buffer), "%dd%02dh", static_cast<int>(whole / 86400),
                  static_cast<int>(whole / 3600 % 24));
  }
  return buffer;
}

std::string FormatTime(double seconds_since_1970) {
  if (!(seconds_since_1970 > 0) || seconds_since_1970 > 1e11) return "-";
  const auto time = static_cast<time_t>(seconds_since_1970);
  tm parts = {};
  char buffer[64];
  if (localtime_r(&time, &parts) == nullptr ||
      std::strftime(buffer, sizeof(buffer), "%Y-%m-%d %H:%M:%S", &parts) == 0) {
    return "-";
  }
  return buffer;
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes == 0) return "-";
  double value = static_cast<double>(bytes) / (1 << 20);
  const char* const units[] = {"MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  return Formatted(value < 10 ? "%.1f " : "%.0f ", value) + units[unit];
}

std::string FormatNumber(double value) { return Formatted("%.4g", value); }

std::string FormatShare(double share) { return Formatted("%.2f%%", 100 * share); }

std::string FormatBar(double share, int width, const Screen& screen) {
  const double filled = (std::isfinite(share) ? std::clamp(share, 0.0, 1.0) : 0.0) * width;
  std::string bar;
  for (int i = 0; i < width; ++i) {
    if (i + 1 <= filled) {
      bar += screen.unicode ? "█" : "#";
    } else if (i < filled && screen.unicode) {
      // Eighths of a column, from the left.
      static const char* const kParts[] = {"░", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
      bar += kParts[static_cast<int>((filled - i) * 8)];
    } else {
      bar += screen.unicode ? "░" : "-";
    }
  }
  return bar;
}

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<int> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out += std::string(widths[i] - DisplayWidth(row[i]) + 2, ' ');
    }
    out += "\n";
  }
  return out;
}

std::vector<std::string> FlowItems(const std::vector<std::string>& items, int width) {
  std::vector<std::string> lines;
  for (const std::string& item : items) {
    if (!lines.empty() && DisplayWidth(lines.back()) + 3 + DisplayWidth(item) <= width) {
      lines.back() += "   " + item;
    } else {
      lines.push_back(item);
    }
  }
  return lines;
}

bool Print(const std::string& text) {
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
         std::fflush(stdout) == 0;
}

}  // namespace swinfleet

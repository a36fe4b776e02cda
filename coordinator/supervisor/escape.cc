#include "coordinator/supervisor/escape.h"

#include <cstdint>
#include <cstdio>

#include "proto/text.h"

namespace swinfleet {
namespace {

// Marks that reorder or break the text around them, and invisible ones.
bool IsTreacherous(int32_t code) {
  return code == 0x61C || code == 0xAD || (code >= 0x200B && code <= 0x200F) ||
         (code >= 0x2028 && code <= 0x202E) || (code >= 0x2060 && code <= 0x206F) ||
         code == 0xFEFF || (code >= 0xFFF9 && code <= 0xFFFB) ||
         (code >= 0xE0000 && code <= 0xE0FFF);
}

}  // namespace

std::string EscapeForTerminal(const std::string& text, bool keep_non_ascii) {
  std::string out;
  out.reserve(text.size());
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    const int32_t code = NextCodePoint(text, &position);
    char escape[16];
    if (code == '\n') {
      out += "\\n";
    } else if (code < 0 || IsControlCharacter(code)) {
      std::snprintf(
          escape, sizeof(escape), "\\x%02x",
          code < 0 ? static_cast<unsigned char>(text[start]) : static_cast<unsigned>(code));
      out += escape;
    } else if (IsTreacherous(code) || (code >= 0x80 && !keep_non_ascii)) {
      std::snprintf(escape, sizeof(escape), "\\u{%x}", static_cast<unsigned>(code));
      out += escape;
    } else {
      out.append(text, start, position - start);
    }
  }
  return out;
}

}  // namespace swinfleet

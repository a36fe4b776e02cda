#include "worker/utf8.h"

#include <algorithm>
#include <string_view>

namespace swinfleet {
namespace {

// Bytes of the character that `text` begins with, 0 if that is none (RFC 3629, table 3-7 of
// Unicode: the second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF).
size_t CharacterLength(std::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    length = 2;
  } else if (first >= 0xE0 && first <= 0xEF) {
    length = 3;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
  } else if (first >= 0xF0 && first <= 0xF4) {
    length = 4;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
  }
  if (length == 0 || text.size() < length || byte(1) < low || byte(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return length;
}

}  // namespace

std::string ToUtf8(const std::string& text, size_t limit) {
  std::string clean = text.substr(0, limit);
  for (size_t i = 0; i < clean.size();) {
    const size_t length = CharacterLength(std::string_view(clean).substr(i));
    if (length == 0) clean[i] = '?';
    i += std::max<size_t>(1, length);
  }
  return clean.size() < text.size() ? clean + " ..." : clean;
}

}  // namespace swinfleet

// Small helpers on text, shared by those who read job files and those who talk to people.
#ifndef SWINFLEET_PROTO_TEXT_H_
#define SWINFLEET_PROTO_TEXT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace swinfleet {

// The code point at `*position` of `text`, which moves behind it; -1 when the byte there begins no
// valid UTF-8 sequence (then `*position` moves by one byte).
inline int32_t NextCodePoint(const std::string& text, size_t* position) {
  const size_t start = (*position)++;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(start);
  if (first < 0x80) return first;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || start + length > text.size()) return -1;
  int32_t code = first & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(start + i) & 0xC0) != 0x80) return -1;
    code = (code << 6) | (byte(start + i) & 0x3F);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return -1;
  *position = start + length;
  return code;
}

// Characters that a terminal obeys instead of showing them.
inline bool IsControlCharacter(int32_t code) {
  return (code >= 0 && code < 0x20) || (code >= 0x7F && code < 0xA0);
}

// The letters A to Z in lower case.
inline std::string LowerCase(std::string text) {
  std::ranges::for_each(text, [](char& c) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  });
  return text;
}

// "1 rank", "2 ranks".
inline std::string Plural(uint64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

// Insertions, deletions and replacements of bytes that turn `a` into `b`.
inline size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// The candidate that `word` was probably meant to be: at most max(2, a third of its length) edits
// away; "" when there is none. The first of equals.
inline std::string NearestWord(const std::string& word,
                               const std::vector<std::string>& candidates) {
  std::string nearest;
  size_t best = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // The bound keeps a huge word from costing time.
    if (word.size() > 2 * candidate.size() + 8) continue;
    const size_t distance = EditDistance(word, candidate);
    if (distance >= best) continue;
    best = distance;
    nearest = candidate;
  }
  return nearest;
}

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_TEXT_H_

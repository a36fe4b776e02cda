// Text that may hold anything (paths, system messages) as a protobuf string must be.
#ifndef SWINFLEET_WORKER_UTF8_H_
#define SWINFLEET_WORKER_UTF8_H_

#include <cstddef>
#include <string>

namespace swinfleet {

// The first `limit` bytes of `text`, each byte that is no part of valid UTF-8 as '?', with " ..."
// after them if that is not all of it.
std::string ToUtf8(const std::string& text, size_t limit);

}  // namespace swinfleet

#endif  // SWINFLEET_WORKER_UTF8_H_

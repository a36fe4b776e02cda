#include "coordinator/supervisor/uuid.h"

#include <glog/logging.h>
#include <sys/random.h>

#include <cerrno>
#include <cstdio>

namespace swinfleet {

std::string NewUuid() {
  unsigned char bytes[16];
  // getrandom gives up to 256 bytes whole, but a signal can come before the first.
  ssize_t got;
  do {
    got = getrandom(bytes, sizeof(bytes), 0);
  } while (got < 0 && errno == EINTR);
  CHECK_EQ(got, static_cast<ssize_t>(sizeof(bytes)));
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0F) | 0x40);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3F) | 0x80);
  std::string text;
  for (size_t i = 0; i < sizeof(bytes); ++i) {
    char hex[4];
    std::snprintf(hex, sizeof(hex), "%02x", bytes[i]);
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += hex;
  }
  return text;
}

}  // namespace swinfleet

// The web page's files, which are in the program.
#ifndef SWINFLEET_COORDINATOR_WEB_PAGE_H_
#define SWINFLEET_COORDINATOR_WEB_PAGE_H_

#include <string_view>

namespace swinfleet::coordinator {

struct WebFile {
  const char* path;
  const char* content_type;
  std::string_view text;
};

// Null: there is none under that path.
const WebFile* FindWebFile(std::string_view path);

}  // namespace swinfleet::coordinator

#endif  // SWINFLEET_COORDINATOR_WEB_PAGE_H_

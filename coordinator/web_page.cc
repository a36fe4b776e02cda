#include "coordinator/web_page.h"

#include <algorithm>
#include <iterator>

namespace swinfleet::coordinator {
namespace {

// Made by CMake from coordinator/web/.
constexpr WebFile kFiles[] = {
    {
        "/",
        "text/html; charset=utf-8",
#include "web/index.html.inc"
    },
    {
        "/page.css",
        "text/css; charset=utf-8",
#include "web/page.css.inc"
    },
    {
        "/page.js",
        "text/javascript; charset=utf-8",
#include "web/page.js.inc"
    },
};

}  // namespace

const WebFile* FindWebFile(std::string_view path) {
  const auto* found = std::find_if(std::begin(kFiles), std::end(kFiles),
                                   [&](const WebFile& file) { return file.path == path; });
  return found == std::end(kFiles) ? nullptr : found;
}

}  // namespace swinfleet::coordinator

// Protobuf's JSON as users of the command line and of HTTP see it.
#ifndef SWINFLEET_PROTO_MESSAGE_JSON_H_
#define SWINFLEET_PROTO_MESSAGE_JSON_H_

#include <google/protobuf/message.h>
#include <google/protobuf/util/json_util.h>

#include <string>

namespace swinfleet {

// Adds the message to `text`, on one line: the schema's field names, defaults included, 64-bit
// integers as strings. Fails for messages that hold a type unknown to the program (Any).
inline google::protobuf::util::Status AppendJson(const google::protobuf::Message& message,
                                                 std::string* text) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  return google::protobuf::util::MessageToJsonString(message, text, options);
}

}  // namespace swinfleet

#endif  // SWINFLEET_PROTO_MESSAGE_JSON_H_

#include "proto/job_yaml.h"

#include <fcntl.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <unistd.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <type_traits>
#include <utility>

#include "proto/text.h"

namespace swinfleet {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr size_t kMaxFileBytes = size_t{1} << 20;
// A job file has three levels and some hundred values. The limits keep hostile files (deep nesting,
// aliases of aliases) from costing more than a moment.
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxNodes = 20000;
constexpr size_t kMaxMessages = 100;

// ---------------------------------------------------------------------------------------------
// Text

// Text for a message: shortened, and without characters that a terminal obeys.
std::string Escaped(const std::string& text) {
  constexpr size_t kShown = 60;
  std::string out;
  size_t position = 0;
  while (position < text.size() && position < kShown) {
    const size_t start = position;
    const int32_t code = NextCodePoint(text, &position);
    if (code < 0 || IsControlCharacter(code)) {
      position = start + 1;
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", static_cast<unsigned char>(text[start]));
      out += escape;
    } else {
      out.append(text, start, position - start);
    }
  }
  if (position < text.size()) out += "...";
  return out;
}

// A piece of the file.
std::string Quoted(const std::string& text) { return '"' + Escaped(text) + '"'; }

// ---------------------------------------------------------------------------------------------
// From text to a tree of nodes

struct Node;

// A place of the file where a node stands. An alias stands at its own line.
struct Use {
  int line = 0;
  const Node* node = nullptr;
};

struct Node {
  enum class Kind { kNull, kScalar, kSequence, kMap };
  Kind kind = Kind::kNull;
  // "?" for plain text, "!" for quoted text, or a tag that the file gives.
  std::string tag;
  std::string text;
  // Of a sequence its elements, of a map key, value, key, value, ...
  std::vector<Use> children;
  // Its end was not read yet: an alias to it would be a cycle.
  bool open = false;
};

struct Fault {
  int line;
  std::string what;
};

// Keeps what yaml-cpp's own tree loses (whether text was quoted, where an alias stands), and bounds
// the tree while it grows.
class TreeBuilder : public YAML::EventHandler {
 public:
  const Use& root() const { return root_; }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Add(mark, anchor, Node::Kind::kNull, "?");
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Fault{mark.line + 1, "this alias has no anchor before it"};
    if (found->second->open) throw Fault{mark.line + 1, "this alias stands inside its own anchor"};
    Attach({mark.line + 1, found->second});
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Add(mark, anchor, Node::Kind::kScalar, tag)->text = value;
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, Add(mark, anchor, Node::Kind::kSequence, tag));
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, Add(mark, anchor, Node::Kind::kMap, tag));
  }
  void OnMapEnd() override { Close(); }

 private:
  Node* Add(const YAML::Mark& mark, YAML::anchor_t anchor, Node::Kind kind,
            const std::string& tag) {
    nodes_.push_back(std::make_unique<Node>());
    Node* node = nodes_.back().get();
    node->kind = kind;
    node->tag = tag;
    if (anchor != YAML::NullAnchor) anchors_[anchor] = node;
    Attach({mark.line + 1, node});
    return node;
  }
  void Attach(Use use) {
    if (++uses_ > kMaxNodes) {
      throw Fault{use.line,
                  "more than " + std::to_string(kMaxNodes) + " values: this is not a job file"};
    }
    if (open_.empty()) {
      root_ = use;
    } else {
      open_.back()->children.push_back(use);
    }
  }
  void Open(const YAML::Mark& mark, Node* node) {
    if (open_.size() >= kMaxDepth) {
      throw Fault{mark.line + 1, "nested more than " + std::to_string(kMaxDepth) +
                                     " levels deep: this is not a job file"};
    }
    node->open = true;
    open_.push_back(node);
  }
  void Close() {
    open_.back()->open = false;
    open_.pop_back();
  }

  std::vector<std::unique_ptr<Node>> nodes_;
  std::map<YAML::anchor_t, Node*> anchors_;
  std::vector<Node*> open_;
  size_t uses_ = 0;
  Use root_;
};

// ---------------------------------------------------------------------------------------------
// From nodes to messages

// The schema is ours: a field of another type needs a case in MapValue and one in EmitValue.
[[noreturn]] void UnsupportedSchema(const FieldDescriptor* field) {
  std::fprintf(stderr, "job files have no mapping for the type of %s\n",
               field->full_name().c_str());
  std::abort();
}

// Text of a scalar that stands for a number or a truth value, not for text.
bool IsPlain(const Node& node) {
  return node.tag == "?" || node.tag == "tag:yaml.org,2002:int" ||
         node.tag == "tag:yaml.org,2002:float" || node.tag == "tag:yaml.org,2002:bool";
}
bool IsQuoted(const Node& node) { return node.tag == "!" || node.tag == "tag:yaml.org,2002:str"; }

std::string Describe(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kNull:
      return "empty";
    case Node::Kind::kSequence:
      return "a list";
    case Node::Kind::kMap:
      return "a mapping";
    case Node::Kind::kScalar:
      break;
  }
  return IsQuoted(node) ? "the text " + Quoted(node.text) : Quoted(node.text);
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

enum class Number { kOk, kNotANumber, kOutOfRange };

// [+-]decimal digits without leading zeros, or 0x and hexadecimal digits.
template <typename T>
Number ParseInteger(const std::string& text, T* value) {
  const char* begin = text.data();
  const char* const end = begin + text.size();
  const bool negative = begin != end && *begin == '-';
  if (begin != end && (*begin == '-' || *begin == '+')) ++begin;
  int base = 10;
  if (end - begin > 2 && begin[0] == '0' && begin[1] == 'x') {
    base = 16;
    begin += 2;
  } else if (end - begin > 1 && begin[0] == '0') {
    return Number::kNotANumber;
  }
  if (begin == end || *begin == '-') return Number::kNotANumber;
  uint64_t magnitude = 0;
  const auto [parsed, error] = std::from_chars(begin, end, magnitude, base);
  if (parsed != end || error == std::errc::invalid_argument) return Number::kNotANumber;
  if (error == std::errc::result_out_of_range) return Number::kOutOfRange;
  const auto largest = static_cast<uint64_t>(std::numeric_limits<T>::max());
  if (negative) {
    const uint64_t smallest = std::is_signed_v<T> ? largest + 1 : 0;
    if (magnitude > smallest) return Number::kOutOfRange;
    *value = static_cast<T>(uint64_t{0} - magnitude);
    return Number::kOk;
  }
  if (magnitude > largest) return Number::kOutOfRange;
  *value = static_cast<T>(magnitude);
  return Number::kOk;
}

// YAML 1.2's decimal floating-point numbers, finite ones only.
Number ParseReal(const std::string& text, double* value) {
  size_t i = 0;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
  const size_t begin = text[0] == '+' ? 1 : 0;
  size_t digits = 0;
  while (i < text.size() && IsDigit(text[i])) ++i, ++digits;
  if (i < text.size() && text[i] == '.') ++i;
  while (i < text.size() && IsDigit(text[i])) ++i, ++digits;
  if (digits == 0) return Number::kNotANumber;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    size_t exponent_digits = 0;
    while (i < text.size() && IsDigit(text[i])) ++i, ++exponent_digits;
    if (exponent_digits == 0) return Number::kNotANumber;
  }
  if (i != text.size()) return Number::kNotANumber;
  const auto [end, error] = std::from_chars(text.data() + begin, text.data() + i, *value);
  if (error == std::errc::result_out_of_range) return Number::kOutOfRange;
  return error == std::errc() && end == text.data() + i ? Number::kOk : Number::kNotANumber;
}

bool ParseBool(const std::string& text, bool* value) {
  if (text == "true" || text == "True" || text == "TRUE") {
    *value = true;
    return true;
  }
  *value = false;
  return text == "false" || text == "False" || text == "FALSE";
}

// Whether plain text reads as something else than text to YAML.
bool ReadsAsOtherType(const std::string& text) {
  static const std::set<std::string> kSpecial = {
      ".inf",  ".Inf", ".INF", "-.inf", "-.Inf", "-.INF", "+.inf", "+.Inf",
      "+.INF", ".nan", ".NaN", ".NAN",  "null",  "Null",  "NULL",  "~"};
  bool truth;
  double real;
  uint64_t integer;
  return text.empty() || kSpecial.count(text) > 0 || ParseBool(text, &truth) ||
         ParseReal(text, &real) != Number::kNotANumber ||
         ParseInteger(text, &integer) != Number::kNotANumber;
}

class Mapper {
 public:
  Mapper(std::string file_name, JobFileErrors* errors)
      : file_name_(std::move(file_name)), errors_(errors) {}

  void Report(int line, const std::string& what) {
    if (errors_->messages.size() == kMaxMessages) {
      errors_->messages.push_back(file_name_ + ": more faults follow; these come first");
    }
    if (errors_->messages.size() > kMaxMessages) return;
    errors_->messages.push_back(file_name_ + ":" + std::to_string(line) + ": " + what);
  }

  // `path` names the message for people: "" for the whole file, "train.optimizer" below it.
  void MapMessage(const Use& use, const std::string& path, Message* message) {
    if (use.node->kind != Node::Kind::kMap) {
      Report(use.line, (path.empty() ? "a job file" : path) +
                           " must be a mapping of keys to values (\"key: value\" lines), not " +
                           Describe(*use.node));
      return;
    }
    std::map<std::string, int> seen;
    const std::vector<Use>& children = use.node->children;
    for (size_t i = 0; i + 1 < children.size(); i += 2) {
      const Use& key = children[i];
      if (key.node->kind != Node::Kind::kScalar) {
        Report(key.line, "a key must be a name, not " + Describe(*key.node));
        continue;
      }
      const std::string& name = key.node->text;
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
      if (field == nullptr) {
        Report(key.line, UnknownKey(name, path, message->GetDescriptor()));
        continue;
      }
      const auto [first, fresh] = seen.emplace(name, key.line);
      if (!fresh) {
        Report(key.line, "the key " + Join(path, name) + " is repeated; it stands first in line " +
                             std::to_string(first->second));
        continue;
      }
      MapField(children[i + 1], Join(path, name), field, message);
    }
  }

 private:
  static std::string Join(const std::string& path, const std::string& name) {
    return path.empty() ? name : path + "." + name;
  }

  static std::string UnknownKey(const std::string& name, const std::string& path,
                                const Descriptor* descriptor) {
    std::string what =
        "unknown key " + Quoted(name) + (path.empty() ? std::string() : " in " + path);
    if (name == "<<") return what + ": merge keys are not part of job files";
    const std::string elsewhere = FindElsewhere(name, "", JobSpec::descriptor());
    if (!elsewhere.empty()) return what + "; it belongs to " + elsewhere;
    std::vector<std::string> candidates;
    std::string known;
    for (int i = 0; i < descriptor->field_count(); ++i) {
      candidates.push_back(descriptor->field(i)->name());
      known += (i == 0 ? "" : ", ") + candidates.back();
    }
    const std::string nearest = NearestWord(name, candidates);
    if (!nearest.empty()) what += "; did you mean \"" + nearest + "\"?";
    return what + (nearest.empty() ? "; known here are " : " Known here are ") + known;
  }

  // Where else in the schema a key of this name lies, "" when nowhere.
  static std::string FindElsewhere(const std::string& name, const std::string& path,
                                   const Descriptor* descriptor) {
    // "name" is a key of several messages, so its place can't be told.
    if (name == "name") return "";
    for (int i = 0; i < descriptor->field_count(); ++i) {
      const FieldDescriptor* field = descriptor->field(i);
      if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
      const std::string inner = Join(path, field->name());
      if (field->message_type()->FindFieldByName(name) != nullptr) return inner;
      const std::string deeper = FindElsewhere(name, inner, field->message_type());
      if (!deeper.empty()) return deeper;
    }
    return "";
  }

  void MapField(const Use& value, const std::string& path, const FieldDescriptor* field,
                Message* message) {
    if (value.node->kind == Node::Kind::kNull) {
      Report(value.line, path + " has no value; give one, or leave the key out for its default");
      return;
    }
    if (!field->is_repeated() || value.node->kind != Node::Kind::kSequence) {
      MapValue(value, path, field, message);
      return;
    }
    for (size_t i = 0; i < value.node->children.size(); ++i) {
      // The same list can be used by several aliases: what counts is what is visited.
      if (++visited_ > kMaxNodes) {
        Report(value.line, path + " has too many values");
        return;
      }
      MapValue(value.node->children[i], path + "[" + std::to_string(i) + "]", field, message);
    }
  }

  void MapValue(const Use& value, const std::string& path, const FieldDescriptor* field,
                Message* message) {
    const auto* reflection = message->GetReflection();
    const bool list = field->is_repeated();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        MapMessage(value, path,
                   list ? reflection->AddMessage(message, field)
                        : reflection->MutableMessage(message, field));
        return;
      case FieldDescriptor::CPPTYPE_STRING:
        if (std::string text; MapText(value, path, &text)) {
          list ? reflection->AddString(message, field, text)
               : reflection->SetString(message, field, text);
        }
        return;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (bool truth; MapBool(value, path, &truth)) {
          list ? reflection->AddBool(message, field, truth)
               : reflection->SetBool(message, field, truth);
        }
        return;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        if (double real; MapReal(value, path, &real)) {
          list ? reflection->AddDouble(message, field, real)
               : reflection->SetDouble(message, field, real);
        }
        return;
      case FieldDescriptor::CPPTYPE_INT32:
        if (int32_t number; MapInteger(value, path, &number)) {
          list ? reflection->AddInt32(message, field, number)
               : reflection->SetInt32(message, field, number);
        }
        return;
      case FieldDescriptor::CPPTYPE_UINT32:
        if (uint32_t number; MapInteger(value, path, &number)) {
          list ? reflection->AddUInt32(message, field, number)
               : reflection->SetUInt32(message, field, number);
        }
        return;
      case FieldDescriptor::CPPTYPE_UINT64:
        if (uint64_t number; MapInteger(value, path, &number)) {
          list ? reflection->AddUInt64(message, field, number)
               : reflection->SetUInt64(message, field, number);
        }
        return;
      default:
        UnsupportedSchema(field);
    }
  }

  // Whether `value` is a scalar whose tag (if the file gives one) this format knows.
  bool IsUsableScalar(const Use& value, const std::string& path, const std::string& expected) {
    const Node& node = *value.node;
    if (node.kind != Node::Kind::kScalar) {
      Report(value.line, path + " must be " + expected + ", not " + Describe(node));
      return false;
    }
    if (!IsPlain(node) && !IsQuoted(node)) {
      Report(value.line, path + " has the tag " + Quoted(node.tag) + ", which job files don't use");
      return false;
    }
    return true;
  }

  bool MapText(const Use& value, const std::string& path, std::string* text) {
    if (!IsUsableScalar(value, path, "text")) return false;
    const Node& node = *value.node;
    if (IsPlain(node) && ReadsAsOtherType(node.text)) {
      Report(value.line, path + " must be text, not " + Describe(node) +
                             "; write it in quotes if it is meant as text");
      return false;
    }
    for (size_t position = 0; position < node.text.size();) {
      const int32_t code = NextCodePoint(node.text, &position);
      if (code < 0 || IsControlCharacter(code)) {
        Report(value.line, path + " holds " +
                               (code < 0 ? "bytes that are not UTF-8" : "a control character") +
                               ": " + Quoted(node.text));
        return false;
      }
    }
    *text = node.text;
    return true;
  }

  bool MapBool(const Use& value, const std::string& path, bool* truth) {
    if (!IsUsableScalar(value, path, "true or false")) return false;
    if (IsPlain(*value.node) && ParseBool(value.node->text, truth)) return true;
    Report(value.line, path + " must be true or false, not " + Describe(*value.node));
    return false;
  }

  bool MapReal(const Use& value, const std::string& path, double* real) {
    if (!IsUsableScalar(value, path, "a number")) return false;
    const Number result =
        IsPlain(*value.node) ? ParseReal(value.node->text, real) : Number::kNotANumber;
    if (result == Number::kOk) return true;
    Report(value.line, path +
                           (result == Number::kOutOfRange ? " is outside of the range of a double: "
                                                          : " must be a finite number, not ") +
                           Describe(*value.node) + Unquote(*value.node));
    return false;
  }

  template <typename T>
  bool MapInteger(const Use& value, const std::string& path, T* number) {
    const std::string expected = "a whole number from " +
                                 std::to_string(std::numeric_limits<T>::min()) + " to " +
                                 std::to_string(std::numeric_limits<T>::max());
    if (!IsUsableScalar(value, path, expected)) return false;
    if (IsPlain(*value.node) && ParseInteger(value.node->text, number) == Number::kOk) return true;
    Report(value.line,
           path + " must be " + expected + ", not " + Describe(*value.node) + Unquote(*value.node));
    return false;
  }

  static std::string Unquote(const Node& node) {
    double real;
    const bool number =
        IsQuoted(node) && !node.text.empty() && ParseReal(node.text, &real) == Number::kOk;
    return number ? "; remove the quotes" : "";
  }

  const std::string file_name_;
  JobFileErrors* const errors_;
  size_t visited_ = 0;
};

// The first byte that no YAML file may hold is reported here, because yaml-cpp would quietly
// replace it or take it for the end of the file.
bool CheckCharacters(const std::string& text, Mapper* mapper) {
  int line = 1;
  for (size_t position = 0; position < text.size();) {
    const int32_t code = NextCodePoint(text, &position);
    if (code < 0) {
      mapper->Report(line, "this is not UTF-8 text");
      return false;
    }
    if (code == '\n') ++line;
    if ((code < 0x20 && code != '\n' && code != '\r' && code != '\t') || code == 0x7F) {
      mapper->Report(line, "a control character (" + std::to_string(code) +
                               ") stands in the text; a job file is plain text");
      return false;
    }
  }
  return true;
}

// ---------------------------------------------------------------------------------------------
// From messages to text

std::string EmitText(const std::string& text) {
  const auto safe = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || IsDigit(c) || c == '_' || c == '/' ||
           c == '.' || c == '-';
  };
  const bool plain = !text.empty() && text[0] != '-' && text[0] != '.' &&
                     std::all_of(text.begin(), text.end(), safe) && !ReadsAsOtherType(text) &&
                     text.size() < 200;
  // YAML 1.1 readers take these for truth values.
  static const std::set<std::string> kTruths = {"y", "n", "yes", "no", "on", "off"};
  std::string lower = text;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (plain && kTruths.count(lower) == 0) return text;
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02x", static_cast<unsigned char>(c));
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string EmitReal(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value < 0 ? "-.inf" : ".inf";
  char buffer[40];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, end);
}

// The value of a field, or of its element `index` when it is repeated.
std::string EmitValue(const Message& message, const FieldDescriptor* field, int index) {
  const auto* reflection = message.GetReflection();
  const bool list = field->is_repeated();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return EmitText(list ? reflection->GetRepeatedString(message, field, index)
                           : reflection->GetString(message, field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return (list ? reflection->GetRepeatedBool(message, field, index)
                   : reflection->GetBool(message, field))
                 ? "true"
                 : "false";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return EmitReal(list ? reflection->GetRepeatedDouble(message, field, index)
                           : reflection->GetDouble(message, field));
    case FieldDescriptor::CPPTYPE_INT32:
      return std::to_string(list ? reflection->GetRepeatedInt32(message, field, index)
                                 : reflection->GetInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return std::to_string(list ? reflection->GetRepeatedUInt32(message, field, index)
                                 : reflection->GetUInt32(message, field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return std::to_string(list ? reflection->GetRepeatedUInt64(message, field, index)
                                 : reflection->GetUInt64(message, field));
    default:
      UnsupportedSchema(field);
  }
}

std::string EmitMessage(const Message& message, int indent) {
  const auto* reflection = message.GetReflection();
  const Descriptor* descriptor = message.GetDescriptor();
  std::string out;
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    const std::string key = std::string(indent, ' ') + field->name() + ":";
    if (field->is_repeated()) {
      const int size = reflection->FieldSize(message, field);
      if (size == 0) continue;
      std::string elements;
      for (int j = 0; j < size; ++j) {
        elements += (j == 0 ? "" : ", ") + EmitValue(message, field, j);
      }
      out += key + " [" + elements + "]\n";
    } else if (!reflection->HasField(message, field)) {
      continue;
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      const std::string inner = EmitMessage(reflection->GetMessage(message, field), indent + 2);
      out += key + (inner.empty() ? " {}\n" : "\n" + inner);
    } else {
      out += key + " " + EmitValue(message, field, 0) + "\n";
    }
  }
  return out;
}

}  // namespace

std::string JobFileErrors::ToString() const {
  std::string out;
  for (const std::string& message : messages) out += message + "\n";
  return out;
}

JobFileErrors ParseJobYaml(const std::string& text, const std::string& file_name, JobSpec* spec) {
  JobFileErrors errors;
  Mapper mapper(file_name, &errors);
  if (text.size() > kMaxFileBytes) {
    mapper.Report(
        1, "a job file is at most 1 MiB large; this has " + std::to_string(text.size()) + " bytes");
    return errors;
  }
  if (!CheckCharacters(text, &mapper)) return errors;
  TreeBuilder tree;
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    const bool any = parser.HandleNextDocument(tree);
    if (!any || tree.root().node == nullptr || tree.root().node->kind == Node::Kind::kNull) {
      mapper.Report(1, "the job file is empty; it needs at least run_dir, model and data");
      return errors;
    }
    TreeBuilder second;
    if (parser.HandleNextDocument(second)) {
      mapper.Report(second.root().line, "a second document begins; a job file holds one job");
      return errors;
    }
  } catch (const Fault& fault) {
    mapper.Report(fault.line, fault.what);
    return errors;
  } catch (const YAML::Exception& error) {
    // It ends in the character that is wrong, whatever that is, or in half of it.
    mapper.Report(error.mark.line + 1, "not YAML: " + Escaped(error.msg));
    return errors;
  }
  JobSpec parsed;
  mapper.MapMessage(tree.root(), "", &parsed);
  if (errors.ok()) spec->Swap(&parsed);
  return errors;
}

JobFileErrors ReadJobFile(const std::string& path, JobSpec* spec) {
  const auto failure = [&](const std::string& what) { return JobFileErrors{{path + ": " + what}}; };
  const auto system_failure = [&] {
    return failure(std::string("can't read the job file: ") + std::strerror(errno));
  };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return system_failure();
  const std::unique_ptr<const int, void (*)(const int*)> closer(&file,
                                                                [](const int* fd) { close(*fd); });
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);
  while (text.size() <= kMaxFileBytes) {
    const ssize_t got = read(file, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_failure();
    if (got == 0) return ParseJobYaml(text, path, spec);
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  return failure("larger than 1 MiB: this is not a job file");
}

std::string JobToYaml(const JobSpec& spec) {
  const std::string text = EmitMessage(spec, 0);
  return text.empty() ? "{}\n" : text;
}

}  // namespace swinfleet

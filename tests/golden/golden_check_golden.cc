#include <filesystem>

#include "tests/golden/golden_check.h"

namespace swinfleet::golden {
namespace {

Json ParseOrThrow(const std::string& text, const std::string& what, const std::string& path) {
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) throw Error(path + ": its metadata \"" + what + "\" is not JSON");
  return value;
}

}  // namespace

Golden::Golden(const std::string& path) : file_(path) {
  kind_ = Text("kind");
  if (kind_.empty()) {
    throw Error(path + ": has no metadata \"kind\"; golden_check takes golden files only");
  }
  name_ = Text("case");
  if (name_.empty()) name_ = std::filesystem::path(path).stem().string();
  config_ = Parsed("config");
  if (!config_.is_object()) throw Error(path + ": its metadata \"config\" is not a JSON object");
}

std::string Golden::Text(const std::string& key) const {
  const auto found = file_.metadata().find(key);
  return found == file_.metadata().end() ? "" : found->second;
}

Json Golden::Parsed(const std::string& key) const {
  const std::string text = Text(key);
  return text.empty() ? Json() : ParseOrThrow(text, key, path());
}

Tensor Golden::Load(const std::string& name) const {
  read_.insert(name);
  return Tensor{file_.ReadF32(name), file_.Get(name).shape};
}

Tensor Golden::Load(const std::string& name, const Shape& shape) const {
  const StoredTensor& stored = file_.Get(name);
  if (!(stored.shape == shape)) {
    throw Error(path() + ": " + name + " has the shape " + stored.shape.ToString() +
                ", and by the config it needs " + shape.ToString());
  }
  return Load(name);
}

std::vector<int64_t> Golden::LoadIntegers(const std::string& name) const {
  read_.insert(name);
  return file_.ReadI64(name);
}

}  // namespace swinfleet::golden

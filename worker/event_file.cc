#include "worker/event_file.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>

namespace swinfleet {
namespace {

std::string EventPath(const std::string& run_dir, int64_t attempt) {
  // TensorBoard takes files in the order of their names.
  char name[64];
  std::snprintf(name, sizeof(name), "events.out.tfevents.%010lld.swinfleet",
                static_cast<long long>(attempt));
  return (std::filesystem::path(run_dir) / "tensorboard" / name).string();
}

constexpr std::array<uint32_t, 256> MakeCrcTable() {
  constexpr uint32_t kPolynomial = 0x82f63b78;  // bits reversed
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[i] = crc;
  }
  return table;
}

void AppendLittleEndian(uint64_t value, int bytes, std::string* out) {
  for (int i = 0; i < bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// As TFRecord stores checksums: a checksum of what contains checksums would otherwise be weak.
void AppendMaskedCrc(std::string_view data, std::string* out) {
  const uint32_t crc = Crc32c(data);
  AppendLittleEndian(((crc >> 15) | (crc << 17)) + 0xa282ead8u, 4, out);
}

}  // namespace

uint32_t Crc32c(std::string_view data) {
  static constexpr std::array<uint32_t, 256> kTable = MakeCrcTable();
  uint32_t crc = ~0u;
  for (const char c : data) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

std::string FrameRecord(std::string_view data) {
  std::string out;
  AppendLittleEndian(data.size(), 8, &out);
  AppendMaskedCrc(std::string(out), &out);
  out += data;
  AppendMaskedCrc(data, &out);
  return out;
}

EventFile::EventFile(const std::string& run_dir, int64_t attempt, int64_t first_step)
    : file_("the TensorBoard file", EventPath(run_dir, attempt)) {
  tensorboard::Event version;
  version.set_file_version("brain.Event:2");
  Write(&version);
  tensorboard::Event start;
  start.set_step(first_step + 1);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  Write(&start);
  Flush();
}

void EventFile::Add(int64_t step, std::span<const Scalar> scalars) {
  tensorboard::Event event;
  event.set_step(step);
  for (const Scalar& scalar : scalars) {
    tensorboard::Summary::Value* value = event.mutable_summary()->add_value();
    value->set_tag(scalar.tag);
    value->set_simple_value(static_cast<float>(scalar.value));
  }
  Write(&event);
}

void EventFile::Write(tensorboard::Event* event) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  event->set_wall_time(std::chrono::duration<double>(now).count());
  file_.Add(FrameRecord(event->SerializeAsString()));
}

}  // namespace swinfleet

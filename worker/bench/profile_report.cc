#include "worker/bench/profile_report.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <functional>
#include <string_view>

#include "kernels/op_entries.h"
#include "worker/trace.h"

namespace swinfleet::bench {
namespace {

// What modules of one kind have in common: "stage 0 blocks attn, backward" of
// layers.0.blocks.1.attn.
std::string KindOf(const ProfilePlace& place) {
  std::string kind;
  std::string_view container;
  for (std::string_view rest = place.module; !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find('.'));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
    if (container == "blocks") {
      container = {};
      continue;  // The number of a block, which is all that differs.
    }
    if (!kind.empty()) kind += ' ';
    kind += part == "layers" ? "stage" : part;
    container = part;
  }
  return place.module == place.pass ? kind : kind + ", " + place.pass;
}

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

}  // namespace

void ProfileReport::Row::Add(const Profile::Call& call, const MachineLimits& limits) {
  ++calls;
  seconds += call.span.seconds;
  matrix_flops += call.matrix_flops;
  bytes += call.bytes;
  limit_seconds += limits.SecondsOf(call.matrix_flops, call.bytes);
}

void ProfileReport::AddTo(std::vector<Row>* rows, const std::string& name,
                          const Profile::Call& call, const MachineLimits& limits) {
  auto row = std::ranges::find(*rows, name, &Row::name);
  if (row == rows->end()) row = rows->insert(row, Row{.name = name});
  row->Add(call, limits);
}

ProfileReport::ProfileReport(const Profile& profile, double step_seconds,
                             const MachineLimits& limits)
    : limits_(limits),
      of_gpu_(profile.of_gpu()),
      step_seconds_(of_gpu_ ? step_seconds : step_seconds - profile.own_seconds()),
      own_seconds_(profile.own_seconds()) {
  all_.name = "all operations";
  for (const Profile::Call& call : profile.calls()) {
    if (of_gpu_) starting_seconds_ += call.host.seconds;
    all_.Add(call, limits);
    AddTo(&operations_, kOpNames[call.op], call, limits);
    AddTo(&modules_, KindOf(PlaceOf(profile, call.scope)), call, limits);
  }
  std::ranges::stable_sort(operations_, std::greater(), &Row::seconds);
  std::ranges::stable_sort(modules_, std::greater(), &Row::seconds);
}

void ProfileReport::PrintRow(const Row& row) const {
  const double flops = Ratio(row.matrix_flops, row.seconds);
  const double bandwidth = Ratio(row.bytes, row.seconds);
  std::printf("| %-36s | %6" PRId64
              " | %9.3f | %5.1f%% | %8.3f | %7.1f | %5.1f%% | %7.3f | %6.1f | %5.0f%% | %6.2f |\n",
              row.name.c_str(), row.calls, 1e3 * row.seconds,
              100 * Ratio(row.seconds, step_seconds_), row.matrix_flops / 1e9, flops / 1e9,
              100 * flops / limits_.flops, row.bytes / 1e9, bandwidth / 1e9,
              100 * bandwidth / limits_.bandwidth, Ratio(row.seconds, row.limit_seconds));
}

void ProfileReport::PrintTable(const char* what, const std::vector<Row>& rows) const {
  std::printf(
      "\n| %-36s |  calls |        ms |  share |    GFLOP | GFLOP/s |   peak |      GB |"
      "   GB/s | memory | limits |\n"
      "| %s | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
      what, std::string(36, '-').c_str());
  for (const Row& row : rows) PrintRow(row);
}

void ProfileReport::Print() const {
  std::printf(
      "profile of a step of %.4f s, %s the %.4f s of recording%s; limits: %.1f GFLOP/s, "
      "%.1f GB/s\n",
      step_seconds_, of_gpu_ ? "with" : "without", own_seconds_,
      of_gpu_ ? ", beside which the GPU computes" : "", limits_.flops / 1e9,
      limits_.bandwidth / 1e9);
  PrintTable("operation", operations_);
  PrintRow(all_);
  PrintTable("module", modules_);
  PrintOutside();
  std::printf("fixed cost of a call, on one element: %.2f us (linear_forward), %.2f us (add)\n",
              1e6 * limits_.linear_call_seconds, 1e6 * limits_.add_call_seconds);
}

void ProfileReport::PrintOutside() const {
  const double outside = step_seconds_ - all_.seconds;
  const double each = 1e6 / static_cast<double>(std::max<int64_t>(1, all_.calls));
  if (of_gpu_) {
    std::printf(
        "\nthe GPU outside of operations, with copies or waiting for the host: %.3f ms, %.1f%% of "
        "the step\n"
        "the host started operations for %.3f ms of it, %.2f us each of %" PRId64 " calls\n",
        1e3 * outside, 100 * outside / step_seconds_, 1e3 * starting_seconds_,
        each * starting_seconds_, all_.calls);
    return;
  }
  std::printf(
      "\nfixed cost of a step, outside of operations: %.3f ms, %.1f%% of it, %.2f us for each "
      "of %" PRId64 " calls\n",
      1e3 * outside, 100 * outside / step_seconds_, each * outside, all_.calls);
}

nlohmann::json ProfileReport::JsonOf(const Row& row) const {
  return {{"name", row.name},       {"calls", row.calls},
          {"seconds", row.seconds}, {"matrix_flops", row.matrix_flops},
          {"bytes", row.bytes},     {"limit_seconds", row.limit_seconds}};
}

nlohmann::json ProfileReport::Json() const {
  nlohmann::json operations = nlohmann::json::array(), modules = nlohmann::json::array();
  for (const Row& row : operations_) operations.push_back(JsonOf(row));
  for (const Row& row : modules_) modules.push_back(JsonOf(row));
  nlohmann::json report = {{"step_s", step_seconds_},
                           {"recording_s", own_seconds_},
                           {"outside_s", step_seconds_ - all_.seconds},
                           {"calls", all_.calls},
                           {"peak_gflops", limits_.flops / 1e9},
                           {"bandwidth_gb_s", limits_.bandwidth / 1e9},
                           {"linear_call_s", limits_.linear_call_seconds},
                           {"add_call_s", limits_.add_call_seconds},
                           {"operations", operations},
                           {"modules", modules}};
  if (of_gpu_) report["starting_s"] = starting_seconds_;
  return report;
}

}  // namespace swinfleet::bench

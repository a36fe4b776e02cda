#include "core/config/names.h"

namespace swinfleet {

const EnumNames<Architecture>& ArchitectureNames() {
  static const EnumNames<Architecture> names = {{"swin_v1", Architecture::kSwinV1},
                                                {"swin_v2", Architecture::kSwinV2},
                                                {"video_swin", Architecture::kVideoSwin},
                                                {"vit", Architecture::kVit}};
  return names;
}

const EnumNames<DType>& DTypeNames() {
  static const EnumNames<DType> names = {
      {"fp32", DType::kF32}, {"bf16", DType::kBF16}, {"fp16", DType::kF16}};
  return names;
}

const EnumNames<Matmul>& MatmulNames() {
  static const EnumNames<Matmul> names = {{"fp32", Matmul::kFloat32}, {"tf32", Matmul::kTf32}};
  return names;
}

const EnumNames<Accumulation>& AccumulationNames() {
  static const EnumNames<Accumulation> names = {
      {"plain", Accumulation::kPlain},
      {"split", Accumulation::kSplit},
      {"low_precision", Accumulation::kLowPrecision},
      {"split_low_precision", Accumulation::kSplitLowPrecision}};
  return names;
}

const EnumNames<Offload>& OffloadNames() {
  static const EnumNames<Offload> names = {
      {"none", Offload::kNone}, {"host", Offload::kHost}, {"disk", Offload::kDisk}};
  return names;
}

const EnumNames<Reduction>& ReductionNames() {
  static const EnumNames<Reduction> names = {{"reproducible", Reduction::kReproducible},
                                             {"library", Reduction::kLibrary}};
  return names;
}

const EnumNames<DataConfig::Interpolation>& InterpolationNames() {
  using Interpolation = DataConfig::Interpolation;
  static const EnumNames<Interpolation> names = {{"bilinear", Interpolation::kBilinear},
                                                 {"bicubic", Interpolation::kBicubic},
                                                 {"random", Interpolation::kRandom}};
  return names;
}

const EnumNames<OptimizerConfig::Kind>& OptimizerNames() {
  using Kind = OptimizerConfig::Kind;
  static const EnumNames<Kind> names = {{"adamw", Kind::kAdamW}, {"sgd", Kind::kSgd}};
  return names;
}

const EnumNames<ScheduleConfig::Kind>& ScheduleNames() {
  using Kind = ScheduleConfig::Kind;
  static const EnumNames<Kind> names = {{"cosine", Kind::kCosine},
                                        {"linear", Kind::kLinear},
                                        {"step", Kind::kStep},
                                        {"multistep", Kind::kMultistep},
                                        {"mae_cosine", Kind::kMaeCosine}};
  return names;
}

const EnumNames<PretrainConfig::Method>& PretrainMethodNames() {
  using Method = PretrainConfig::Method;
  static const EnumNames<Method> names = {
      {"simmim", Method::kSimMim}, {"mae", Method::kMae}, {"greenmim", Method::kGreenMim}};
  return names;
}

EnumNames<PretrainConfig::Method> PretrainMethodNamesFor(Architecture arch) {
  const bool swin = arch == Architecture::kSwinV1 || arch == Architecture::kSwinV2;
  EnumNames<PretrainConfig::Method> names;
  for (const auto& [name, method] : PretrainMethodNames()) {
    const bool mae = method == PretrainConfig::Method::kMae;
    if (mae ? arch == Architecture::kVit : swin) names.emplace_back(name, method);
  }
  return names;
}

const EnumNames<MemoryConfig::Checkpointing>& CheckpointingNames() {
  using Checkpointing = MemoryConfig::Checkpointing;
  static const EnumNames<Checkpointing> names = {{"none", Checkpointing::kNone},
                                                 {"selective", Checkpointing::kSelective},
                                                 {"block", Checkpointing::kBlock}};
  return names;
}

const char* ArchitectureName(Architecture arch) { return NameIn(ArchitectureNames(), arch); }

const char* CheckpointingName(MemoryConfig::Checkpointing checkpointing) {
  return NameIn(CheckpointingNames(), checkpointing);
}

const char* UsualEvalSplit(const std::string& format) { return format == "idx" ? "t10k" : "val"; }

}  // namespace swinfleet

// One checkpoint: written by any number of ranks, read in any ranges, and every fault in between.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/checkpoint/safetensors.h"
#include "tests/core/checkpoint_test_util.h"

namespace swinfleet {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string OpenError(const std::string& dir) {
  return MessageOf([&] { CheckpointReader::Open(dir); });
}

TEST(CheckpointShards, AnyCutCanBeReadInAnyRanges) {
  std::mt19937 random(3);
  for (int round = 0; round < 12; ++round) {
    TempFolder run;
    const Tensors tensors = Tensors::Make(SmallModel(), round);
    const int ranks = 1 + static_cast<int>(random() % 8);
    const std::string dir = CheckpointDir(run.path(), 1, round);
    const auto dealt = tensors.Deal(ranks, random);
    std::vector<ShardRecord> records;
    for (int rank = 0; rank < ranks; ++rank) {
      const ShardRecord record = WriteShard(dir, rank, ranks, dealt[rank]);
      records.push_back(ShardRecord::FromJson(record.ToJson(), "a rank"));
      ASSERT_EQ(records.back(), record);
    }
    CommitManifest(dir, MetaOf(1, round, ranks), records);
    const auto reader = CheckpointReader::Open(dir);
    ASSERT_EQ(reader->tensors().size(), tensors.values.size());
    for (const auto& [name, values] : tensors.values) {
      ASSERT_EQ(reader->tensors().at(name), tensors.shapes.at(name));
      ASSERT_EQ(ReadAll(*reader, name), values) << name;
      for (int i = 0; i < 20; ++i) {
        const size_t begin = random() % (values.size() + 1);
        std::vector<float> part(random() % (values.size() - begin + 1));
        reader->Read(name, static_cast<int64_t>(begin), part);
        ASSERT_TRUE(std::equal(part.begin(), part.end(), values.begin() + begin)) << name;
      }
    }
  }
}

TEST(CheckpointShards, MoreShardsThanAreKeptOpen) {
  TempFolder run;
  const std::vector<float> values = [] {
    std::vector<float> v(300);
    for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);
    return v;
  }();
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  std::vector<ShardRecord> records;
  for (int rank = 0; rank < 150; ++rank) {
    const TensorPiece piece =
        PieceInMemory("param/w", Shape{300}, rank * 2, std::span(values).subspan(rank * 2, 2));
    records.push_back(WriteShard(dir, rank, 150, std::span(&piece, 1)));
  }
  CommitManifest(dir, MetaOf(1, 1, 150), records);
  EXPECT_EQ(ReadAll(*CheckpointReader::Open(dir), "param/w"), values);
}

TEST(CheckpointShards, MetaRoundTrip) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = CheckpointDir(run.path(), 2, 77);
  CheckpointMeta meta = MetaOf(2, 77, 1);
  meta.metrics["nan"] = std::numeric_limits<double>::quiet_NaN();
  meta.normalisation = Normalisation{{0.485, 1.0 / 3}, {0.1, 2}};
  meta.metrics["worst"] = -std::numeric_limits<double>::infinity();
  CommitManifest(dir, meta, {WriteShard(dir, 0, 1, tensors.Whole())});
  const CheckpointMeta got = CheckpointReader::Open(dir)->meta();
  EXPECT_EQ(got.job_spec, meta.job_spec);
  EXPECT_EQ(got.step, 77);
  EXPECT_EQ(got.attempt, 2);
  EXPECT_EQ(got.seed, meta.seed);
  EXPECT_EQ(got.data_position, 77 * 128);
  EXPECT_EQ(got.data, meta.data);
  EXPECT_EQ(got.normalisation, meta.normalisation);
  EXPECT_EQ(got.reproducibility, meta.reproducibility);
  EXPECT_EQ(got.model, meta.model);
  EXPECT_EQ(got.skipped_steps, 3);
  EXPECT_EQ(got.consecutive_nonfinite, 2);
  EXPECT_EQ(got.loss_scale, meta.loss_scale);
  EXPECT_EQ(got.metrics.at("loss"), 0.1);
  EXPECT_TRUE(std::isnan(got.metrics.at("nan")));
  EXPECT_EQ(got.metrics.at("worst"), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(got.ranks, 1);
  EXPECT_EQ(got.zero_stage, 1);
  ReproducibilityKey now = meta.reproducibility;
  EXPECT_EQ(got.reproducibility.Differences(now), "");
  now.threads_per_rank = 2;
  now.instruction_set = "AVX3";
  now.accumulation = "low precision";
  now.sequential_windows = {64, 16};
  EXPECT_EQ(got.reproducibility.Differences(now),
            "instruction set AVX2, now AVX3; threads per rank 1, now 2; accumulation tree, now low "
            "precision; sequential windows [0,16], now [64,16]");
}

TEST(CheckpointShards, WhatIsNotKnownOfSequentialWindowsDoesNotDiffer) {
  ReproducibilityKey then = MetaOf(1, 1, 1).reproducibility;
  ReproducibilityKey now = then;
  now.sequential_windows.clear();
  EXPECT_EQ(then.Differences(now), "");
  EXPECT_EQ(now.Differences(then), "");
}

// A manifest that was saved by now, as `change` makes it, with its checksum.
std::string ChangedManifest(const std::function<void(nlohmann::json&)>& change) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string text = ReadBytes(Save(run.path(), 1, 1, tensors, 1) + "/manifest.json");
  nlohmann::json root = nlohmann::json::parse(text);
  root.erase("xxh3_64");
  change(root);
  const std::string rest = root.dump(1).substr(2) + "\n";
  const std::string sum = HexOf(Checksum(std::as_bytes(std::span(rest))));
  return "{\"xxh3_64\": \"" + sum + "\",\n" + rest;
}

TEST(CheckpointShards, ManifestsOfVersion1AreRead) {
  const std::string text = ChangedManifest([](nlohmann::json& root) {
    root.erase("loss_scale");
    root.erase("normalisation");
    root.at("reproducibility").erase("accumulation");
    root.at("reproducibility").erase("sequential_windows");
    root.at("reproducibility").erase("moments");
    root["version"] = 1;
  });
  const Manifest manifest = Manifest::FromText(text, "m");
  EXPECT_EQ(manifest.meta.step, 1);
  EXPECT_FALSE(manifest.meta.loss_scale.has_value());
  EXPECT_EQ(manifest.meta.reproducibility.accumulation, "tree");
  EXPECT_THAT(manifest.meta.reproducibility.sequential_windows, IsEmpty());
}

TEST(CheckpointShards, ManifestsOfVersion2AreRead) {
  const std::string text = ChangedManifest([](nlohmann::json& root) {
    root.at("reproducibility").erase("sequential_windows");
    root.erase("normalisation");
    root.at("reproducibility").erase("moments");
    root["version"] = 2;
  });
  const Manifest manifest = Manifest::FromText(text, "m");
  EXPECT_EQ(manifest.meta.loss_scale, MetaOf(1, 1, 1).loss_scale);
  EXPECT_THAT(manifest.meta.reproducibility.sequential_windows, IsEmpty());
}

TEST(CheckpointShards, ManifestsOfVersion3AreRead) {
  const std::string text = ChangedManifest([](nlohmann::json& root) {
    root.erase("normalisation");
    root.at("reproducibility").erase("moments");
    root["version"] = 3;
  });
  const Manifest manifest = Manifest::FromText(text, "m");
  EXPECT_EQ(manifest.meta.reproducibility, MetaOf(1, 1, 1).reproducibility);
  EXPECT_FALSE(manifest.meta.normalisation.has_value());
}

TEST(CheckpointShards, ManifestsOfVersion4AreRead) {
  const std::string text = ChangedManifest([](nlohmann::json& root) {
    root.at("reproducibility").erase("moments");
    root["version"] = 4;
  });
  EXPECT_EQ(Manifest::FromText(text, "m").meta.reproducibility, MetaOf(1, 1, 1).reproducibility);
}

TEST(CheckpointShards, ANormalisationWithoutNumbersIsRefused) {
  const std::string text = ChangedManifest([](nlohmann::json& root) {
    root["normalisation"] = {{"mean", {"0.5"}}, {"std", {0.5}}};
  });
  EXPECT_THAT(MessageOf([&] { Manifest::FromText(text, "m"); }),
              HasSubstr("\"mean\" has the entry \"0.5\""));
}

TEST(CheckpointShards, SequentialWindowsThatAreNoNumbersAreRefused) {
  for (const nlohmann::json& bad : {nlohmann::json(-1), nlohmann::json("8"), nlohmann::json(0.5)}) {
    const std::string text = ChangedManifest([&](nlohmann::json& root) {
      root.at("reproducibility")["sequential_windows"] = nlohmann::json::array({bad});
    });
    EXPECT_THAT(MessageOf([&] { Manifest::FromText(text, "m"); }),
                HasSubstr("\"sequential_windows\" has the entry " + bad.dump()));
  }
}

TEST(CheckpointShards, AShardIsAnOrdinarySafetensorsFile) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = Save(run.path(), 1, 5, tensors, 1);
  EXPECT_EQ(dir, run / "checkpoints/attempt-001/step-00000005");
  EXPECT_THAT(NamesOf(dir), ElementsAre("manifest.json", "rank-00000-of-00001.safetensors"));
  const std::string whole = CheckpointDir(run.path(), 1, 6);
  WriteShard(whole, 0, 1, tensors.Whole());
  const SafetensorsFile file(whole + "/rank-00000-of-00001.safetensors");
  EXPECT_EQ(file.ReadF32("param/head.bias"), tensors.values.at("param/head.bias"));
  EXPECT_EQ(file.Get("param/patch_embed.proj.weight").shape, (Shape{8, 3, 2, 2}));
}

TEST(CheckpointShards, EveryFlippedByteIsFound) {
  TempFolder run;
  const Tensors tensors = Tensors::Make({{"w", Shape{3, 5}}}, 1);
  const std::string dir = Save(run.path(), 1, 1, tensors, 2);
  for (const std::string& name : NamesOf(dir)) {
    const std::string path = dir + "/" + name;
    const std::string bytes = ReadBytes(path);
    for (size_t i = 0; i < bytes.size(); ++i) {
      std::string flipped = bytes;
      flipped[i] ^= static_cast<char>(1U << (i % 8));
      WriteBytes(path, flipped);
      ASSERT_THAT(OpenError(dir), HasSubstr(name)) << "byte " << i;
    }
    WriteBytes(path, bytes);
  }
  EXPECT_EQ(OpenError(dir), "");
}

TEST(CheckpointShards, EveryTruncationIsFound) {
  TempFolder run;
  const Tensors tensors = Tensors::Make({{"w", Shape{3, 5}}}, 1);
  const std::string dir = Save(run.path(), 1, 1, tensors, 2);
  for (const std::string& name : NamesOf(dir)) {
    const std::string path = dir + "/" + name;
    const std::string bytes = ReadBytes(path);
    for (size_t size = 0; size < bytes.size(); ++size) {
      WriteBytes(path, bytes.substr(0, size));
      ASSERT_THAT(OpenError(dir), HasSubstr(name)) << "cut to " << size;
    }
    WriteBytes(path, bytes + "x");
    ASSERT_THAT(OpenError(dir), HasSubstr(name));
    WriteBytes(path, bytes);
  }
}

TEST(CheckpointShards, DamageIsDescribed) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = Save(run.path(), 1, 1, tensors, 1);
  const std::string shard = dir + "/rank-00000-of-00001.safetensors";
  const std::string bytes = ReadBytes(shard);
  std::string flipped = bytes;
  flipped.back() ^= 1;
  WriteBytes(shard, flipped);
  EXPECT_THAT(OpenError(dir), AllOf(HasSubstr(shard), HasSubstr("tensor param/"),
                                    HasSubstr("elements "), HasSubstr("damaged")));
  WriteBytes(shard, bytes.substr(0, bytes.size() - 1));
  EXPECT_THAT(OpenError(dir), AllOf(HasSubstr(shard), HasSubstr("truncated")));
  std::filesystem::remove(shard);
  EXPECT_THAT(OpenError(dir), AllOf(HasSubstr(shard), HasSubstr("does not exist")));
  WriteBytes(shard, bytes);
  std::filesystem::remove(dir + "/manifest.json");
  EXPECT_THAT(OpenError(dir), AllOf(HasSubstr(dir), HasSubstr("has no manifest.json")));
  EXPECT_THAT(OpenError(run / "nowhere"), HasSubstr("has no manifest.json"));
}

TEST(CheckpointShards, VerificationCanBeShared) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = Save(run.path(), 1, 1, tensors, 2);
  const std::string shard = dir + "/rank-00001-of-00002.safetensors";
  const std::string bytes = ReadBytes(shard);
  for (size_t i = 0; i < bytes.size(); i += 37) {
    std::string flipped = bytes;
    flipped[i] ^= 4;
    WriteBytes(shard, flipped);
    const auto reader = CheckpointReader::OpenManifest(dir);
    int found = 0;
    for (int rank = 0; rank < 5; ++rank) {
      found += MessageOf([&] { reader->VerifyShards(rank, 5); }).empty() ? 0 : 1;
    }
    ASSERT_EQ(found, 1) << "byte " << i;
  }
}

// The manifest of a newer program, with a right checksum.
TEST(CheckpointShards, OtherVersionsAndTamperedManifestsAreRefused) {
  TempFolder run;
  const Tensors tensors = Tensors::Make({{"w", Shape{4}}}, 1);
  const std::string dir = Save(run.path(), 1, 1, tensors, 1);
  const std::string text = ReadBytes(dir + "/manifest.json");
  const auto change = [&](const std::string& from, const std::string& to) {
    std::string rest = text.substr(text.find('\n') + 1);
    const size_t at = rest.find(from);
    CHECK_NE(at, std::string::npos) << from;
    rest.replace(at, from.size(), to);
    const std::string sum = HexOf(Checksum(std::as_bytes(std::span(rest))));
    return MessageOf([&] { Manifest::FromText("{\"xxh3_64\": \"" + sum + "\",\n" + rest, "m"); });
  };
  EXPECT_EQ(change("\"version\": 5", "\"version\": 5 "), "");
  EXPECT_THAT(change("\"version\": 5", "\"version\": 6"), HasSubstr("version 6"));
  EXPECT_THAT(change("\"version\": 5", "\"version\": 0"), HasSubstr("version 0"));
  EXPECT_THAT(change("\"scale\": 1024.0", "\"scale\": 0.5"), HasSubstr("the loss scale 0.5"));
  EXPECT_THAT(change("\"scale\": 1024.0", "\"scale\": \"x\""), HasSubstr("the loss scale"));
  // What versions 1 to 4 lacked.
  EXPECT_THAT(change("\"moments\"", "\"momenta\""), HasSubstr("is missing"));
  EXPECT_THAT(change("\"loss_scale\"", "\"loss_sale\""), HasSubstr("is missing"));
  EXPECT_THAT(change("\"accumulation\"", "\"accommodation\""), HasSubstr("is missing"));
  EXPECT_THAT(change("\"sequential_windows\"", "\"windows\""), HasSubstr("is missing"));
  EXPECT_THAT(change("\"normalisation\"", "\"normalization\""), HasSubstr("is missing"));
  EXPECT_THAT(change("\"step\": 1", "\"step\": -1"), HasSubstr("\"step\" is not a whole number"));
  EXPECT_THAT(change("\"step\": 1", "\"stop\": 1"), HasSubstr("\"step\" is missing"));
  EXPECT_THAT(change("\"ranks\": 1", "\"ranks\": 99999999999"), HasSubstr("\"ranks\""));
  EXPECT_THAT(change("\"file\": \"rank", "\"file\": \"a/rank"), HasSubstr("no name of a shard"));
  EXPECT_THAT(change("\"file\": \"rank", "\"file\": \"../rank"), HasSubstr("no name of a shard"));
  EXPECT_THAT(
      change("\"dtype\": \"F32\",\n     \"offset\"", "\"dtype\": \"F16\",\n     \"offset\""),
      HasSubstr("reads F32 and BF16 only"));
  EXPECT_THAT(change("\"count\": 4", "\"count\": 5"), HasSubstr("outside of tensor"));
  EXPECT_THAT(change("\"count\": 4", "\"count\": 3"), HasSubstr("begins at byte"));
  EXPECT_THAT(change("swinfleet-checkpoint", "other"), HasSubstr("no manifest"));
  EXPECT_THAT(MessageOf([&] { Manifest::FromText("", "m"); }), HasSubstr("m: "));
}

TEST(CheckpointShards, RandomManifestsNeverCrash) {
  TempFolder run;
  const Tensors tensors = Tensors::Make({{"w", Shape{4, 2}}}, 1);
  const std::string text = ReadBytes(Save(run.path(), 1, 1, tensors, 2) + "/manifest.json");
  const std::string body = text.substr(text.find('\n') + 1);
  std::mt19937 random(5);
  for (int i = 0; i < 4000; ++i) {
    std::string rest = body;
    const size_t at = random() % rest.size();
    switch (random() % 4) {
      case 0:
        rest[at] = static_cast<char>(random());
        break;
      case 1:
        rest.erase(at, 1 + random() % 30);
        break;
      case 2:
        rest.insert(at, rest.substr(random() % rest.size(), random() % 60));
        break;
      default:
        rest[at] = static_cast<char>('0' + random() % 10);
    }
    const std::string sum = HexOf(Checksum(std::as_bytes(std::span(rest))));
    try {
      Manifest::FromText("{\"xxh3_64\": \"" + sum + "\",\n" + rest, "fuzz");
      ShardRecord::FromJson(rest, "fuzz");
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr("fuzz"));
    }
  }
}

TEST(CheckpointShards, CommitRefusesWhatIsNotCoveredOnce) {
  TempFolder run;
  const std::vector<float> values(12, 1.F);
  int step = 0;
  const auto commit = [&](std::vector<TensorPiece> first, std::vector<TensorPiece> second) {
    const std::string dir = CheckpointDir(run.path(), 1, ++step);
    const std::vector<ShardRecord> records = {WriteShard(dir, 0, 2, first),
                                              WriteShard(dir, 1, 2, second)};
    const std::string message = MessageOf([&] { CommitManifest(dir, MetaOf(1, 1, 2), records); });
    EXPECT_EQ(std::filesystem::exists(dir + "/manifest.json"), message.empty());
    return message;
  };
  const auto piece = [&](const std::string& name, int64_t begin, size_t count,
                         Shape shape = Shape{12}) {
    return PieceInMemory(name, shape, begin, std::span(values).first(count));
  };
  EXPECT_EQ(commit({piece("param/w", 0, 6)}, {piece("param/w", 6, 6)}), "");
  EXPECT_EQ(commit({piece("param/w", 0, 12)}, {}), "");
  EXPECT_EQ(commit({piece("param/w", 0, 12), piece("param/e", 0, 0, Shape{0})}, {}), "");
  EXPECT_THAT(commit({piece("param/w", 0, 5)}, {piece("param/w", 6, 6)}),
              HasSubstr("elements 5 to 6 of tensor param/w are in no shard"));
  EXPECT_THAT(commit({piece("param/w", 0, 7)}, {piece("param/w", 6, 6)}),
              HasSubstr("elements 6 to 7 of tensor param/w are there twice"));
  EXPECT_THAT(commit({piece("param/w", 0, 12)}, {piece("param/w", 0, 12)}), HasSubstr("twice"));
  EXPECT_THAT(commit({piece("param/w", 0, 11)}, {}), HasSubstr("elements 11 to 12"));
  EXPECT_THAT(commit({piece("param/w", 1, 11)}, {}), HasSubstr("elements 0 to 1"));
  EXPECT_THAT(commit({piece("param/w", 0, 6)}, {piece("param/w", 6, 6, Shape{3, 4})}),
              HasSubstr("has the shape"));
  EXPECT_THAT(commit({}, {}), HasSubstr("no tensors"));
  EXPECT_THAT(
      commit({piece("param/w", 0, 12), piece("param/v", 0, 12)}, {piece("adamw_m/w", 0, 12)}),
      HasSubstr("adamw_m/v is missing"));
  EXPECT_THAT(commit({piece("param/w", 0, 12)}, {piece("sgd_momentum/v", 0, 12)}),
              HasSubstr("sgd_momentum/w is missing"));
  EXPECT_THAT(commit({piece("param/w", 0, 12)}, {piece("adamw_v/w", 0, 12, Shape{2, 6})}),
              HasSubstr("its parameter"));
  const std::string dir = CheckpointDir(run.path(), 1, ++step);
  const TensorPiece whole = piece("param/w", 0, 12);
  const ShardRecord record = WriteShard(dir, 0, 1, std::span(&whole, 1));
  EXPECT_THAT(MessageOf([&] {
                CommitManifest(dir, MetaOf(1, 1, 1), {record, record});
              }),
              HasSubstr("is there twice"));
}

TEST(CheckpointShards, ACompleteCheckpointIsNeverOverwritten) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = Save(run.path(), 1, 1, tensors, 1);
  EXPECT_THAT(MessageOf([&] { Save(run.path(), 1, 1, Tensors::Make(SmallModel(), 2), 1); }),
              HasSubstr("never overwritten"));
  EXPECT_EQ(ReadAll(*CheckpointReader::Open(dir), "param/head.bias"),
            tensors.values.at("param/head.bias"));
}

TEST(CheckpointShards, AShardOnAnotherMachinesDiskIsNoticed) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  const ShardRecord record = WriteShard(dir, 0, 1, tensors.Whole());
  const std::string shard = dir + "/" + record.file;
  std::filesystem::rename(shard, run / "elsewhere");
  FaultyOps ops;
  EXPECT_THAT(MessageOf([&] { CommitManifest(dir, MetaOf(1, 1, 1), {record}, ops); }),
              HasSubstr("filesystem that all ranks share"));
  EXPECT_EQ(ops.sleeps, 10);
  EXPECT_THAT(NamesOf(dir), IsEmpty());
  // It appears late.
  ops.on_open = [&](const std::string& path, int) {
    if (path == shard && ops.sleeps == 14) std::filesystem::rename(run / "elsewhere", shard);
    return 0;
  };
  CommitManifest(dir, MetaOf(1, 1, 1), {record}, ops);
  EXPECT_EQ(OpenError(dir), "");
}

TEST(CheckpointShards, AfterAFailedFsyncTheShardIsWrittenAnew) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  FaultyOps ops;
  std::map<std::string, int> syncs;
  ops.on_fsync = [&](const std::string& path) {
    ++syncs[path];
    return path.ends_with("of-00001.safetensors") ? -EIO : 0;
  };
  const ShardRecord record = WriteShard(dir, 0, 1, tensors.Whole(), ops);
  EXPECT_EQ(record.file, "rank-00000-of-00001-anew.safetensors");
  EXPECT_THAT(NamesOf(dir), ElementsAre(record.file));
  EXPECT_EQ(syncs.at(dir + "/rank-00000-of-00001.safetensors"), 1);
  CommitManifest(dir, MetaOf(1, 1, 1), {record}, ops);
  EXPECT_EQ(OpenError(dir), "");

  const std::string other = CheckpointDir(run.path(), 1, 2);
  ops.on_fsync = [&](const std::string&) { return -EIO; };
  EXPECT_THAT(MessageOf([&] { WriteShard(other, 0, 1, tensors.Whole(), ops); }),
              AllOf(HasSubstr("fsync"), HasSubstr("EIO")));
  EXPECT_THAT(NamesOf(other), IsEmpty());
  // A later save into the same folder starts from nothing.
  EXPECT_EQ(WriteShard(other, 0, 1, tensors.Whole()).file, "rank-00000-of-00001.safetensors");
}

TEST(CheckpointShards, EveryFaultOfACommitLeavesNoCheckpoint) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  const ShardRecord record = WriteShard(dir, 0, 1, tensors.Whole());
  const auto attempt = [&](FaultyOps& ops) {
    const std::string message =
        MessageOf([&] { CommitManifest(dir, MetaOf(1, 1, 1), {record}, ops); });
    EXPECT_THAT(NamesOf(dir), ElementsAre(record.file));
    return message;
  };
  // The n-th fsync fails: of four folders, the manifest (once: it is written anew), the folder
  // again.
  for (int failing = 0; failing < 6; ++failing) {
    FaultyOps ops;
    int calls = 0;
    bool manifest_failed = false;
    ops.on_fsync = [&](const std::string& path) {
      if (path.find("manifest") != std::string::npos && failing == 4) {
        manifest_failed = true;
        return -EIO;
      }
      return calls++ == failing ? -EIO : 0;
    };
    if (failing == 5) {
      ops.on_fsync = [&](const std::string& path) {
        return path == dir && std::filesystem::exists(dir + "/manifest.json") ? -EIO : 0;
      };
    }
    EXPECT_THAT(attempt(ops), HasSubstr("fsync")) << failing;
    EXPECT_EQ(manifest_failed, failing == 4);
  }
  {
    FaultyOps ops;
    ops.on_rename = [](const std::string&, const std::string&) { return -EIO; };
    EXPECT_THAT(attempt(ops), HasSubstr("rename"));
  }
  {
    FaultyOps ops;
    ops.on_write = [](const std::string&, uint64_t) { return -EDQUOT; };
    EXPECT_THAT(attempt(ops), HasSubstr("quota"));
  }
  {
    // Only the first fsync of the manifest fails.
    FaultyOps ops;
    ops.on_fsync = [](const std::string& path) {
      return path.ends_with("manifest.json.tmp") ? -EIO : 0;
    };
    CommitManifest(dir, MetaOf(1, 1, 1), {record}, ops);
    EXPECT_EQ(OpenError(dir), "");
    EXPECT_THAT(NamesOf(dir), ElementsAre("manifest.json", record.file));
  }
}

TEST(CheckpointShards, NetworkFilesystemsAreRiddenOut) {
  TempFolder run;
  const Tensors tensors = Tensors::Make(SmallModel(), 1);
  FaultyOps ops;
  int stale = 3;
  ops.on_open = [&](const std::string&, int) { return stale-- > 0 ? -ESTALE : 0; };
  const std::string dir = CheckpointDir(run.path(), 1, 1);
  const ShardRecord record = WriteShard(dir, 0, 1, tensors.Whole(), ops);
  EXPECT_EQ(ops.sleeps, 3);
  int renames = 0;
  ops.on_rename = [&](const std::string&, const std::string&) {
    return ++renames <= 2 ? -ESTALE : 0;
  };
  // The rename happened, but a repeated request says that there is nothing to rename.
  ops.after_rename = [] { return -ENOENT; };
  CommitManifest(dir, MetaOf(1, 1, 1), {record}, ops);
  EXPECT_EQ(renames, 3);
  EXPECT_EQ(OpenError(dir), "");

  ops.on_open = [](const std::string&, int) { return -ESTALE; };
  EXPECT_THAT(MessageOf([&] { CheckpointReader::Open(dir, ops); }), HasSubstr("ESTALE"));
}

TEST(CheckpointShards, FullAndReadOnlyDisks) {
  TempFolder folder;
  SmallFilesystem disk(folder / "disk");
  if (!disk.mounted()) GTEST_SKIP() << "mounting a small filesystem is not permitted";
  const std::string run = folder / "disk/run";
  const std::string good = Save(run, 1, 1, Tensors::Make({{"w", Shape{100, 100}}}, 1));
  const Tensors large = Tensors::Make({{"w", Shape{500, 500}}}, 1);
  const std::string dir = CheckpointDir(run, 1, 2);
  EXPECT_THAT(MessageOf([&] { WriteShard(dir, 0, 1, large.Whole()); }),
              AllOf(HasSubstr("ENOSPC"), HasSubstr("free space"), HasSubstr(dir)));
  EXPECT_THAT(NamesOf(dir), IsEmpty());
  EXPECT_EQ(OpenError(good), "");
  ASSERT_TRUE(disk.MakeReadOnly());
  EXPECT_THAT(MessageOf([&] { WriteShard(dir, 0, 1, large.Whole()); }), HasSubstr("read-only"));
  EXPECT_THAT(MessageOf([&] { WriteShard(CheckpointDir(run, 1, 3), 0, 1, large.Whole()); }),
              HasSubstr("read-only"));
  EXPECT_EQ(OpenError(good), "");
}

TEST(CheckpointShards, AFileInTheWayIsAnError) {
  TempFolder folder;
  WriteBytes(folder / "run", "a file");
  const Tensors tensors = Tensors::Make({{"w", Shape{2}}}, 1);
  EXPECT_THAT(MessageOf([&] { Save(folder / "run", 1, 1, tensors); }),
              HasSubstr("a part of the path is a file"));
}

}  // namespace
}  // namespace swinfleet

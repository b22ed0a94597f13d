// manifest.json of a checkpoint: the size and SHA-256 of every other file in the folder, written
// last. It carries a hash of itself, so a changed byte anywhere in the folder is noticed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoints/hashed_file.h"

namespace ceiling {

inline constexpr char kCheckpointManifest[] = "manifest.json";

struct CheckpointManifest {
  int64_t step = 0;
  bool permanent = false;  // retention never removes it
  std::string created;     // UTC, 2026-01-31T09:30:00Z
  std::vector<FileRecord> files;
  int64_t size_bytes() const;  // of all files
  const FileRecord* find(const std::string& name) const;
};

void write_manifest(const std::string& folder, const CheckpointManifest& manifest);
// Error if it is missing, damaged or of another format version.
CheckpointManifest read_manifest(const std::string& folder);

enum class Verify { kSizes, kHashes };
// Error names the first file that is not as the manifest says, with both sizes or hashes.
void verify_files(const std::string& folder, const CheckpointManifest& manifest, Verify how);
void verify_file(const std::string& folder, const FileRecord& file, Verify how);

}  // namespace ceiling

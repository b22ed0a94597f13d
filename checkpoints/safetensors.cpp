#include "checkpoints/safetensors.h"

#include <ATen/ops/empty.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace ceiling {

namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensor data is little-endian");

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // as the reference implementation
constexpr char kMetadata[] = "__metadata__";

struct Dtype {
  const char* name;
  at::ScalarType type;
};
constexpr Dtype kDtypes[] = {{"F64", at::kDouble},    {"F32", at::kFloat}, {"F16", at::kHalf},
                             {"BF16", at::kBFloat16}, {"I64", at::kLong},  {"I32", at::kInt},
                             {"U8", at::kByte}};

int64_t element_bytes(at::ScalarType dtype) {
  return static_cast<int64_t>(c10::elementSize(dtype));
}

std::string shape_text(const std::vector<int64_t>& shape) { return json(shape).dump(); }

// Product of the sizes; -1 if it does not fit.
int64_t count_elements(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape)
    if (__builtin_mul_overflow(n, size, &n)) return -1;
  return n;
}

// The JSON with duplicate keys refused, which nlohmann would merge in silence.
json parse_header(const std::string& header, const std::string& path) {
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw Error("{}: the header names '{}' twice", path, parsed.get<std::string>());
    return true;
  };
  try {
    json parsed = json::parse(header, callback);
    if (!parsed.is_object()) throw Error("{}: the header is not a JSON object", path);
    return parsed;
  } catch (const json::exception& e) {
    throw Error("{}: the header is not valid JSON: {}", path, e.what());
  }
}

bool is_size_list(const json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const json& size) {
           return size.is_number_unsigned() && size.get<uint64_t>() <= INT64_MAX;
         });
}

SafetensorsFile::Entry parse_entry(const std::string& name, const json& value,
                                   const std::string& path) {
  const std::string where = fmt::format("{}: tensor '{}'", path, name);
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") ||
      !value.contains("data_offsets"))
    throw Error("{}: dtype, shape and data_offsets are needed", where);
  const json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
  const auto* known = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const Dtype& d) { return dtype == d.name; });
  if (known == std::end(kDtypes))
    throw Error("{}: dtype {} is not one of F64, F32, F16, BF16, I64, I32, U8", where,
                dtype.dump());
  if (!is_size_list(shape)) throw Error("{}: shape {} is not a list of sizes", where, shape.dump());
  if (!is_size_list(offsets) || offsets.size() != 2 || offsets[0] > offsets[1])
    throw Error("{}: data_offsets {} are not a range", where, offsets.dump());
  SafetensorsFile::Entry entry{name, known->type, shape, offsets[0], 0};
  entry.size_bytes = offsets[1].get<int64_t>() - entry.begin;
  const int64_t n = count_elements(entry.shape);
  int64_t needed = 0;
  if (n < 0 || __builtin_mul_overflow(n, element_bytes(known->type), &needed))
    throw Error("{}: shape {} is absurd", where, shape.dump());
  if (needed != entry.size_bytes)
    throw Error("{}: {} of shape {} takes {} bytes, data_offsets give it {}", where, known->name,
                shape.dump(), needed, entry.size_bytes);
  return entry;
}

}  // namespace

const char* safetensors_dtype(at::ScalarType dtype) {
  for (const Dtype& known : kDtypes)
    if (known.type == dtype) return known.name;
  throw Error("dtype {} cannot be written to a safetensors file", c10::toString(dtype));
}

FileRecord write_safetensors(const std::string& path, const std::vector<TensorSource>& tensors,
                             const SafetensorsMetadata& metadata) {
  std::vector<const TensorSource*> order;
  for (const TensorSource& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const TensorSource* a, const TensorSource* b) {
    return element_bytes(a->dtype) > element_bytes(b->dtype);
  });
  // Keys in the order of the data, as the reference implementation writes them.
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t offset = 0;
  for (const TensorSource* tensor : order) {
    if (header.contains(tensor->name))
      throw Error("{}: two tensors are named '{}'", path, tensor->name);
    const int64_t end = offset + count_elements(tensor->shape) * element_bytes(tensor->dtype);
    header[tensor->name] = {{"dtype", safetensors_dtype(tensor->dtype)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = text.size();

  HashedFile file(path);
  file.write(&header_bytes, sizeof header_bytes);
  file.write(text);
  for (const TensorSource* tensor : order) {
    const at::Tensor value = tensor->value().detach().to(at::kCPU, tensor->dtype).contiguous();
    if (value.sizes() != at::IntArrayRef(tensor->shape))
      throw Error("{}: tensor '{}' has another shape than was announced", path, tensor->name);
    file.write(value.const_data_ptr(), value.nbytes());
  }
  return file.finish();
}

FileRecord write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                             const SafetensorsMetadata& metadata) {
  std::vector<TensorSource> sources;
  for (const NamedTensor& t : tensors)
    sources.push_back(
        {t.name, t.value.scalar_type(), t.value.sizes().vec(), [&t] { return t.value; }});
  return write_safetensors(path, sources, metadata);
}

int64_t SafetensorsFile::Entry::numel() const { return count_elements(shape); }

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path, "rb") {
  struct stat info;
  if (::fstat(file_.descriptor(), &info) != 0)
    throw Error("{}: cannot read: {}", path, std::strerror(errno));
  const int64_t file_bytes = info.st_size;
  uint64_t header_bytes = 0;
  if (file_bytes < 8) throw Error("{}: {} bytes are no safetensors file", path, file_bytes);
  read_bytes(0, 8, &header_bytes);
  if (header_bytes > static_cast<uint64_t>(std::min(kMaxHeaderBytes, file_bytes - 8)))
    throw Error("{}: the header should take {} bytes, the file has {}", path, header_bytes,
                file_bytes);
  std::string header(header_bytes, '\0');
  read_bytes(8, static_cast<int64_t>(header_bytes), header.data());
  parse(header, 8 + static_cast<int64_t>(header_bytes), file_bytes);
}

void SafetensorsFile::parse(const std::string& header, int64_t data_begin, int64_t file_bytes) {
  const json parsed = parse_header(header, path());
  for (const auto& [name, value] : parsed.items()) {
    if (name != kMetadata) {
      entries_.push_back(parse_entry(name, value, path()));
      continue;
    }
    if (!value.is_object()) throw Error("{}: {} is not an object", path(), kMetadata);
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) throw Error("{}: {}.{} is not a string", path(), kMetadata, key);
      metadata_[key] = text;
    }
  }
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.size_bytes) < std::tie(b.begin, b.size_bytes);
  });
  const int64_t data_bytes = file_bytes - data_begin;
  int64_t offset = 0;
  for (Entry& entry : entries_) {
    if (entry.begin != offset)
      throw Error("{}: tensor '{}' begins at byte {} of the data, {} was expected ({})", path(),
                  entry.name, entry.begin, offset,
                  entry.begin < offset ? "it overlaps another" : "a hole before it");
    if (entry.size_bytes > data_bytes - offset)
      throw Error("{}: tensor '{}' ends at byte {} of the data, the file has {} (truncated?)",
                  path(), entry.name, offset + entry.size_bytes, data_bytes);
    offset += entry.size_bytes;
    index_[entry.name] = static_cast<size_t>(&entry - entries_.data());
    entry.begin += data_begin;
  }
  if (offset != data_bytes)
    throw Error("{}: the tensors take {} bytes, the file holds {} of data", path(), offset,
                data_bytes);
}

void SafetensorsFile::read_bytes(int64_t begin, int64_t size_bytes, void* out) const {
  constexpr int64_t kMostPerCall = int64_t{1} << 30;  // Linux stops short of 2 GiB
  char* bytes = static_cast<char*>(out);
  while (size_bytes > 0) {
    const size_t wanted = static_cast<size_t>(std::min(size_bytes, kMostPerCall));
    const ssize_t n = ::pread(file_.descriptor(), bytes, wanted, begin);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error("{}: cannot read: {}", path(), std::strerror(errno));
    if (n == 0)
      throw Error("{}: ends at byte {}, {} more were expected", path(), begin, size_bytes);
    bytes += n, begin += n, size_bytes -= n;
  }
}

const SafetensorsFile::Entry* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const SafetensorsFile::Entry& SafetensorsFile::at(const std::string& name) const {
  if (const Entry* entry = find(name)) return *entry;
  std::vector<std::string> names;
  for (const Entry& entry : entries_) names.push_back(entry.name);
  throw Error("{}: no tensor '{}'{}", path(), name, did_you_mean(name, names));
}

at::Tensor SafetensorsFile::read_flat(const std::string& name, int64_t begin, int64_t end) const {
  const Entry& entry = at(name);
  if (begin < 0 || end < begin || end > entry.numel())
    throw Error("{}: tensor '{}' has {} elements, [{}, {}) were asked for", path(), name,
                entry.numel(), begin, end);
  at::Tensor value = at::empty({end - begin}, entry.dtype);
  const int64_t size = element_bytes(entry.dtype);
  read_bytes(entry.begin + begin * size, (end - begin) * size, value.mutable_data_ptr());
  return value;
}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const Entry& entry = at(name);
  return read_flat(name, 0, entry.numel()).view(entry.shape);
}

at::Tensor SafetensorsFile::read_rows(const std::string& name, int64_t begin, int64_t end) const {
  const Entry& entry = at(name);
  if (entry.shape.empty() || begin < 0 || end < begin || end > entry.shape[0])
    throw Error("{}: tensor '{}' has shape {}, rows [{}, {}) were asked for", path(), name,
                shape_text(entry.shape), begin, end);
  std::vector<int64_t> shape = entry.shape;
  shape[0] = 1;
  const int64_t row = count_elements(shape);
  shape[0] = end - begin;
  return read_flat(name, begin * row, end * row).view(shape);
}

void SafetensorsFile::require_shape(const std::string& name,
                                    const std::vector<int64_t>& shape) const {
  if (at(name).shape != shape)
    throw Error("{}: tensor '{}' has shape {}, the model needs {}", path(), name,
                shape_text(at(name).shape), shape_text(shape));
}

void SafetensorsFile::read_into(const std::string& name, at::Tensor value) const {
  require_shape(name, value.sizes().vec());
  const Entry& entry = at(name);
  const bool direct =
      value.device().is_cpu() && value.scalar_type() == entry.dtype && value.is_contiguous();
  if (direct)
    read_bytes(entry.begin, entry.size_bytes, value.mutable_data_ptr());
  else
    value.copy_(read(name));
}

}  // namespace ceiling

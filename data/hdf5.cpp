#include "data/hdf5.h"

namespace ceiling::hdf5 {

namespace {

Handle file_access() {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  H5Pset_file_locking(access, /*use_file_locking=*/false, /*ignore_when_disabled=*/true);
  return access;
}

herr_t keep_description(unsigned depth, const H5E_error2_t* error, void* text) {
  if (depth == 0 && error->desc) *static_cast<std::string*>(text) = error->desc;
  return 0;
}

void replace_attribute(hid_t object, const std::string& path, const char* name, hid_t type,
                       const void* value) {
  if (H5Aexists(object, name) > 0) H5Adelete(object, name);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute.is_open() || H5Awrite(attribute, type, value) < 0)
    throw Error("{}: cannot write attribute '{}': {}", path, name, reason());
}

Handle open_scalar_attribute(hid_t object, const std::string& path, const char* name,
                             H5T_class_t wanted) {
  Handle attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose);
  if (!attribute.is_open())
    throw Error("{}: attribute '{}' is missing or damaged ({})", path, name, reason());
  const Handle type(H5Aget_type(attribute), H5Tclose);
  const Handle space(H5Aget_space(attribute), H5Sclose);
  if (H5Tget_class(type) != wanted || H5Sget_simple_extent_npoints(space) != 1)
    throw Error("{}: attribute '{}' is not one {}", path, name,
                wanted == H5T_INTEGER ? "integer" : "text");
  return attribute;
}

}  // namespace

std::unique_lock<std::mutex> lock() {
  static std::mutex mutex;
  std::unique_lock<std::mutex> held(mutex);
  // At exit the library would try again to flush a file whose disk was full; every good file is
  // closed by its owner.
  static const bool without_exit_handler = H5dont_atexit() >= 0;
  (void)without_exit_handler;
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  return held;
}

std::string reason() {
  std::string text = "no reason given";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_description, &text);
  return text;
}

Handle create_file(const std::string& path) {
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation, false);  // equal content, equal bytes
  const Handle access = file_access();
  Handle file(H5Fcreate(path.c_str(), H5F_ACC_EXCL, creation, access), H5Fclose);
  if (!file.is_open()) throw Error("{}: cannot create: {}", path, reason());
  return file;
}

Handle open_file(const std::string& path, bool writable) {
  const Handle access = file_access();
  Handle file(H5Fopen(path.c_str(), writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access), H5Fclose);
  if (!file.is_open()) throw Error("{}: not a readable HDF5 file: {}", path, reason());
  return file;
}

void write_attribute(hid_t object, const std::string& path, const char* name, int64_t value) {
  replace_attribute(object, path, name, H5T_STD_I64LE, &value);
}

void write_attribute(hid_t object, const std::string& path, const char* name,
                     const std::string& value) {
  // Fixed length: a variable one would lie in the global heap, which has no checksum.
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, value.size() + 1);
  H5Tset_cset(type, H5T_CSET_UTF8);
  replace_attribute(object, path, name, type, value.c_str());
}

int64_t read_int_attribute(hid_t object, const std::string& path, const char* name) {
  const Handle attribute = open_scalar_attribute(object, path, name, H5T_INTEGER);
  int64_t value = 0;
  if (H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0)
    throw Error("{}: cannot read attribute '{}': {}", path, name, reason());
  return value;
}

std::string read_text_attribute(hid_t object, const std::string& path, const char* name) {
  const Handle attribute = open_scalar_attribute(object, path, name, H5T_STRING);
  const Handle type(H5Aget_type(attribute), H5Tclose);
  if (H5Tis_variable_str(type) > 0)
    throw Error("{}: attribute '{}' has variable length, a fixed one is needed", path, name);
  std::string value(H5Tget_size(type), '\0');
  if (H5Aread(attribute, type, value.data()) < 0)
    throw Error("{}: cannot read attribute '{}': {}", path, name, reason());
  value.resize(value.find_last_not_of('\0') + 1);
  return value;
}

Handle create_dataset(hid_t file, const std::string& path, const char* name, hid_t type,
                      hsize_t chunk_elements) {
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_chunk(creation, 1, &chunk_elements);
  H5Pset_fletcher32(creation);
  H5Pset_obj_track_times(creation, false);
  const hsize_t size = 0, unlimited = H5S_UNLIMITED;
  const Handle space(H5Screate_simple(1, &size, &unlimited), H5Sclose);
  Handle dataset(H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose);
  if (!dataset.is_open()) throw Error("{}: cannot create {}: {}", path, name, reason());
  return dataset;
}

void append(hid_t dataset, const std::string& path, hid_t memory_type, hsize_t first,
            const void* data, hsize_t n) {
  const hsize_t size = first + n;
  if (H5Dset_extent(dataset, &size) >= 0) {
    const Handle file_space(H5Dget_space(dataset), H5Sclose);
    const Handle memory_space(H5Screate_simple(1, &n, nullptr), H5Sclose);
    H5Sselect_hyperslab(file_space, H5S_SELECT_SET, &first, nullptr, &n, nullptr);
    if (H5Dwrite(dataset, memory_type, memory_space, file_space, H5P_DEFAULT, data) >= 0) return;
  }
  throw Error("{}: cannot write: {}", path, reason());
}

}  // namespace ceiling::hdf5

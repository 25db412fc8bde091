/* A device server for TVM's RPC that needs nothing on the device: no Python, no compiler, no root.
 *
 * It speaks to TVM's tracker and clients as `python -m tvm.exec.rpc_server` does, and survives what ends that
 * one: each session runs in a forked child with its own process group and directory, and the parent, which
 * never runs a kernel and never waits for anybody without a deadline, goes on listening whatever becomes of it.
 *
 * TVM's libraries are looked up by the dynamic loader (--library-path or LD_LIBRARY_PATH).
 * Build: cc -O2 -DTVM_VERSION='"0.27.0"' -I .../tvm_ffi/include server.c -o server -ldl
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

#ifndef TVM_VERSION
#define TVM_VERSION "unknown"
#endif

enum { RPC_MAGIC = 0xFF271, RPC_MISMATCH = 0xFF273, TRACKER_MAGIC = 0x2F271 };
enum { PUT = 3, UPDATE_INFO = 5, PENDING_KEYS = 7 };
enum { MAX_GREETERS = 16, HEADER_BYTES = 1024, MESSAGE_BYTES = 1 << 16 };
static const double HANDSHAKE_S = 5, TRACKER_ANSWER_S = 5, PING_S = 2, UNUSED_KEY_S = 6, ORPHAN_S = 1;

static struct {
  const char *bind, *key, *custom_addr, *work;
  struct sockaddr_in tracker;
  int port, port_end, core, has_tracker, allow_all;
  double session_s;
  unsigned long long upload_bytes, memory_bytes;
} options = {.bind = "127.0.0.1", .port = 9090, .port_end = 9199, .core = -1, .session_s = 600,
             .upload_bytes = 256ull << 20};

static void say(const char *format, ...) {
  va_list list;
  va_start(list, format);
  fputs("server: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  va_end(list);
}

#define FAIL(...) (say(__VA_ARGS__), exit(1))

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

/* ---- TVM through its C interface, loaded by name so that one binary serves any directory ---- */

static __typeof__(&TVMFFIFunctionCreate) ffi_create;
static __typeof__(&TVMFFIFunctionSetGlobal) ffi_set_global;
static __typeof__(&TVMFFIFunctionGetGlobal) ffi_get_global;
static __typeof__(&TVMFFIFunctionCall) ffi_call;
static __typeof__(&TVMFFIStringFromByteArray) ffi_string;
static __typeof__(&TVMFFIBytesFromByteArray) ffi_bytes;
static __typeof__(&TVMFFIErrorSetRaisedFromCStr) ffi_raise;
static __typeof__(&TVMFFIErrorMoveFromRaised) ffi_take_error;
static __typeof__(&TVMFFIObjectDecRef) ffi_release;
static char work_path[PATH_MAX]; /* of the session; set before its fork */

static int fail_call(const char *format, ...) {
  char text[PATH_MAX + 256];
  va_list list;
  va_start(list, format);
  vsnprintf(text, sizeof text, format, list);
  va_end(list);
  ffi_raise("RuntimeError", text);
  return -1;
}

static int return_text(const char *text, size_t size, TVMFFIAny *result) {
  return ffi_string(&(TVMFFIByteArray){text, size}, result);
}

/* Strings and bytes come in six forms; all are bytes with a length. */
static int bytes_of(const TVMFFIAny *value, TVMFFIByteArray *bytes) {
  switch (value->type_index) {
    case kTVMFFIRawStr: *bytes = (TVMFFIByteArray){value->v_c_str, strlen(value->v_c_str)}; return 0;
    case kTVMFFISmallStr:
    case kTVMFFISmallBytes: *bytes = (TVMFFIByteArray){value->v_bytes, value->small_str_len}; return 0;
    case kTVMFFIStr:
    case kTVMFFIBytes: *bytes = *(TVMFFIByteArray *)(value->v_obj + 1); return 0;
    case kTVMFFIByteArrayPtr: *bytes = *(TVMFFIByteArray *)value->v_ptr; return 0;
    default: return fail_call("expected a string or bytes, got type %d", value->type_index);
  }
}

static int path_of(const TVMFFIAny *args, int32_t count, int32_t expected, char *path) {
  TVMFFIByteArray name;
  if (count != expected) return fail_call("expected %d arguments, got %d", expected, count);
  if (bytes_of(args, &name)) return -1;
  if ((size_t)snprintf(path, PATH_MAX, "%s/%.*s", work_path, (int)name.size, name.data) >= PATH_MAX)
    return fail_call("the file name is too long: %zu bytes", name.size);
  return 0;
}

static int server_workpath(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  char path[PATH_MAX];
  (void)self;
  return path_of(args, count, 1, path) || return_text(path, strlen(path), result) ? -1 : 0;
}

/* TVM's own upload neither bounds a file nor notices a full disk. */
static int server_upload(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  char path[PATH_MAX];
  TVMFFIByteArray data;
  (void)self;
  if (path_of(args, count, 2, path) || bytes_of(args + 1, &data)) return -1;
  if (data.size > options.upload_bytes)
    return fail_call("an upload may have %llu bytes, not %zu; start the server with a larger "
                     "--max-upload-bytes", options.upload_bytes, data.size);
  FILE *file = fopen(path, "wb");
  int written = file && fwrite(data.data, 1, data.size, file) == data.size;
  if (file && fclose(file)) written = 0;
  if (!written) return fail_call("cannot write %s: %s", path, strerror(errno));
  *result = (TVMFFIAny){.type_index = kTVMFFINone};
  return 0;
}

static int call_global(const char *name, TVMFFIAny *args, int count, TVMFFIAny *result) {
  TVMFFIObjectHandle function = NULL;
  *result = (TVMFFIAny){.type_index = kTVMFFINone};
  if (ffi_get_global(&(TVMFFIByteArray){name, strlen(name)}, &function) || !function)
    return fail_call("TVM's runtime has no function %s", name);
  return ffi_call(function, args, count, result);
}

static int server_load_module(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  char path[PATH_MAX];
  (void)self;
  if (path_of(args, count, 1, path)) return -1;
  const char *dot = strrchr(path, '.');
  if (!dot || strcmp(dot, ".so"))
    return fail_call("only .so files load here, not %s: link it where it was compiled", path);
  return call_global("ffi.ModuleLoadFromFile",
                     &(TVMFFIAny){.type_index = kTVMFFIRawStr, .v_c_str = path}, 1, result);
}

/* There is no linker here, so what was not linked where it was compiled cannot be had. */
static int server_download_linked_module(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  char path[PATH_MAX];
  struct stat info;
  (void)self;
  if (path_of(args, count, 1, path)) return -1;
  const char *dot = strrchr(path, '.');
  if (!dot || strcmp(dot, ".so"))
    return fail_call("only .so files are linked, not %s: link it where it was compiled", path);
  FILE *file = fopen(path, "rb");
  if (!file || fstat(fileno(file), &info) || !S_ISREG(info.st_mode)) {
    if (file) fclose(file);
    return fail_call("cannot read %s: %s", path, file ? "it is no file" : strerror(errno));
  }
  unsigned long long size = info.st_size;
  char *data = size <= options.upload_bytes ? malloc(size + 1) : NULL;
  int failed = !data || fread(data, 1, size, file) != size;
  fclose(file);
  if (failed) failed = fail_call("cannot send %s of %llu bytes; at most %llu, as for an upload "
                                 "(--max-upload-bytes)", path, size, options.upload_bytes);
  else failed = ffi_bytes(&(TVMFFIByteArray){data, size}, result);
  free(data);
  return failed;
}

static int server_listdir(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  char path[PATH_MAX], names[1 << 14] = "";
  size_t used = 0;
  struct dirent *entry;
  (void)self;
  if (path_of(args, count, 1, path)) return -1;
  DIR *directory = opendir(path);
  if (!directory) return fail_call("cannot list %s: %s", path, strerror(errno));
  while ((entry = readdir(directory)) && used + sizeof entry->d_name + 1 < sizeof names)
    if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
      used += sprintf(names + used, "%s%s", used ? "," : "", entry->d_name);
  closedir(directory);
  return return_text(names, used, result);
}

/* ---- What an emulator counts: its plugin (count.c) hears this system call, which Linux does not have ---- */

enum { COUNT_CALL = 0x4d4e41, COUNT_CLASSES = 8 };

static int read_counts(uint64_t *counts) {
  memset(counts, 0, COUNT_CLASSES * sizeof *counts);
  syscall(COUNT_CALL, counts);
  return counts[0] != 0;
}

/* ---- What this device is: the same keys and values as tvm_mnas/devices/core/host.py gives ---- */

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

static void add_fact(char *json, size_t size, const char *name, const char *value) {
  size_t used = strlen(json);
  used += snprintf(json + used, size - used, "%s\"%s\": \"", used > 1 ? ", " : "", name);
  for (; *value && used + 8 < size; ++value)
    if (strchr("\"\\", *value)) used += sprintf(json + used, "\\%c", *value);
    else if ((unsigned char)*value >= ' ') json[used++] = *value;
  strcpy(json + used, "\"");
}

static void describe_cpu(char *cpu, size_t size) {
  enum { MODEL_NAME, FAMILY, MODEL, STEPPING, IMPLEMENTER, NAMES };
  static const char *names[NAMES] = {"model name", "cpu family", "model", "stepping", "CPU implementer"};
  char first[NAMES][128] = {""}, parts[64][16], line[4096];
  int count = 0;
  FILE *file = fopen("/proc/cpuinfo", "r");
  while (file && fgets(line, sizeof line, file)) {
    char *colon = strchr(line, ':'), *end = colon;
    if (!colon) continue;
    while (end > line && isspace((unsigned char)end[-1])) --end;
    *end = 0;
    char *value = colon + 1 + strspn(colon + 1, " \t");
    for (end = value + strlen(value); end > value && isspace((unsigned char)end[-1]);) *--end = 0;
    for (int i = 0; i < NAMES; ++i)
      if (!strcmp(line, names[i]) && !first[i][0]) snprintf(first[i], sizeof first[i], "%s", value);
    if (!strcmp(line, "CPU part") && count < 64) snprintf(parts[count++], sizeof parts[0], "%s", value);
  }
  if (file) fclose(file);
#define OR_UNKNOWN(i) (first[i][0] ? first[i] : "?")
  if (first[MODEL_NAME][0]) {
    snprintf(cpu, size, "%s %s/%s/%s", first[MODEL_NAME], OR_UNKNOWN(FAMILY), OR_UNKNOWN(MODEL),
             OR_UNKNOWN(STEPPING));
    return;
  }
  /* ARM kernels give numbers only; big and little cores differ, so all of them count. */
  int used = snprintf(cpu, size, "implementer %s part ", OR_UNKNOWN(IMPLEMENTER));
  qsort(parts, count, sizeof parts[0], by_text);
  for (int i = 0; i < count; ++i)
    if (i == 0 || strcmp(parts[i], parts[i - 1]))
      used += snprintf(cpu + used, size - used, "%s%s", i ? "," : "", parts[i]);
  if (!count) snprintf(cpu + used, size - used, "?");
}

static int device_facts(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  char json[4096] = "{", cpu[2048], cores[16], frequency[32] = "", libc[32];
  uint64_t counts[COUNT_CLASSES];
  struct utsname system;
  (void)self, (void)args, (void)count;
  uname(&system);
  describe_cpu(cpu, sizeof cpu);
  snprintf(cores, sizeof cores, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
  snprintf(libc, sizeof libc, "glibc %s", gnu_get_libc_version());
  FILE *file = fopen("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "r");
  if (!file || fscanf(file, "%31s", frequency) != 1) strcpy(frequency, "unknown");
  if (file) fclose(file);
  add_fact(json, sizeof json, "cpu", cpu);
  add_fact(json, sizeof json, "cores", cores);
  add_fact(json, sizeof json, "max_frequency_khz", frequency);
  add_fact(json, sizeof json, "machine", system.machine);
  add_fact(json, sizeof json, "kernel", system.release);
  add_fact(json, sizeof json, "libc", libc);
  add_fact(json, sizeof json, "tvm", TVM_VERSION);
  if (read_counts(counts)) add_fact(json, sizeof json, "instructions", "counted");
  strcat(json, "}");
  return return_text(json, strlen(json), result);
}

static int read_word(const char *path, char *word, size_t size) {
  FILE *file = fopen(path, "r");
  int found = file && fgets(word, size, file);
  if (file) fclose(file);
  if (found) word[strcspn(word, "\n")] = 0;
  return found && *word;
}

/* Clocks and heat now, of what is readable: the keys of device_state in host.py. */
static int device_state(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  static const char *files[][2] = {{"frequency_khz", "scaling_cur_freq"}, {"limit_khz", "scaling_max_freq"},
                                   {"max_khz", "cpuinfo_max_freq"}, {"governor", "scaling_governor"}};
  char json[1024] = "{", path[PATH_MAX], word[64];
  long hottest = LONG_MIN;
  (void)self, (void)args, (void)count;
  for (size_t i = 0; i < sizeof files / sizeof *files; ++i) {
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/%s", sched_getcpu(), files[i][1]);
    if (read_word(path, word, sizeof word)) add_fact(json, sizeof json, files[i][0], word);
  }
  DIR *zones = opendir("/sys/class/thermal");
  for (struct dirent *entry; zones && (entry = readdir(zones));) {
    snprintf(path, sizeof path, "/sys/class/thermal/%s/temp", entry->d_name);
    if (!strncmp(entry->d_name, "thermal_zone", 12) && read_word(path, word, sizeof word)) {
      long degrees = strtol(word, NULL, 10);
      if (degrees > hottest) hottest = degrees;
    }
  }
  if (zones) closedir(zones);
  snprintf(word, sizeof word, "%ld", hottest);
  if (hottest != LONG_MIN) add_fact(json, sizeof json, "temperature_mc", word);
  strcat(json, "}");
  return return_text(json, strlen(json), result);
}

/* ---- The caches as a network leaves them ---- */

/* About what a mobile network reads and writes from one run of a kernel to its next: its weights and its images. */
enum { EVICTED_BYTES = 16 << 20, LINE_BYTES = 64 };

static void read_through(const volatile char *data, size_t size) {
  for (size_t at = 0; at < size; at += LINE_BYTES) (void)data[at];
}

static void read_tensor(const TVMFFIAny *argument) {
  const DLTensor *tensor = NULL;
  if (argument->type_index == kTVMFFIDLTensorPtr) tensor = argument->v_ptr;
  if (argument->type_index == kTVMFFITensor) tensor = (const DLTensor *)(argument->v_obj + 1);
  if (!tensor) return;
  size_t size = tensor->dtype.bits / 8;
  for (int axis = 0; axis < tensor->ndim; ++axis) size *= tensor->shape[axis];
  read_through((const char *)tensor->data + tensor->byte_offset, size);
}

/* Has a kernel's image and its output, the first argument and the last, in the caches and little else: the image was
 * just written, the output takes the place of another, and the weights come from beyond. */
static int device_evict(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  static char *evicted;
  (void)self;
  if (!evicted) {
    if (!(evicted = malloc(EVICTED_BYTES))) return fail_call("no memory to empty the caches with");
    /* Pages that nobody wrote to are all one. */
    memset(evicted, 1, EVICTED_BYTES);
  }
  read_through(evicted, EVICTED_BYTES);
  if (count > 1) read_tensor(args + count - 1);
  if (count > 0) read_tensor(args);
  *result = (TVMFFIAny){.type_index = kTVMFFINone};
  return 0;
}

/* ---- How much work code is ---- */

static void release(const TVMFFIAny *value) {
  if (value->type_index >= kTVMFFIStaticObjectBegin) ffi_release(value->v_obj);
}

/* The instructions of one call of a module's function, all and by class: (module, name, arguments...) -> "[...]". The
 * first call is not counted, in which symbols are bound and memory is taken. */
static int device_instructions(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  uint64_t before[COUNT_CLASSES], after[COUNT_CLASSES];
  char json[COUNT_CLASSES * 24 + 2] = "[";
  TVMFFIAny function, output;
  (void)self;
  if (count < 2) return fail_call("expected a module, a function's name and its arguments");
  if (!read_counts(before)) return fail_call("nothing counts instructions here: no emulator with count.c");
  TVMFFIAny wanted[] = {args[0], args[1], {.type_index = kTVMFFIBool, .v_int64 = 1}};
  if (call_global("ffi.ModuleGetFunction", wanted, 3, &function)) return -1;
  if (function.type_index != kTVMFFIFunction) return fail_call("the module has no such function");
  int failed = 0;
  for (int run = 0; run < 2 && !failed; ++run) {
    output = (TVMFFIAny){.type_index = kTVMFFINone};
    read_counts(before);
    failed = ffi_call(function.v_obj, (TVMFFIAny *)args + 2, count - 2, &output);
    read_counts(after);
    release(&output);
  }
  release(&function);
  if (failed) return -1;
  for (int i = 0; i < COUNT_CLASSES; ++i)
    sprintf(json + strlen(json), "%s%llu", i ? "," : "", (unsigned long long)(after[i] - before[i]));
  strcat(json, "]");
  return return_text(json, strlen(json), result);
}

static void load_tvm(void) {
  /* Global, because kernels leave TVM's symbols undefined. */
  void *ffi = dlopen("libtvm_ffi.so", RTLD_NOW | RTLD_GLOBAL);
  if (!ffi || !dlopen("libtvm_runtime.so", RTLD_NOW | RTLD_GLOBAL))
    FAIL("TVM's libraries must be on the loader's path: %s", dlerror());
  if (!dlopen("libtvm_runtime_extra.so", RTLD_NOW | RTLD_GLOBAL))
    say("without libtvm_runtime_extra.so kernels cannot be timed: %s", dlerror());
#define LOOK_UP(variable, name) \
  if (!(variable = (__typeof__(variable))dlsym(ffi, #name))) FAIL("libtvm_ffi.so lacks " #name)
  LOOK_UP(ffi_create, TVMFFIFunctionCreate);
  LOOK_UP(ffi_set_global, TVMFFIFunctionSetGlobal);
  LOOK_UP(ffi_get_global, TVMFFIFunctionGetGlobal);
  LOOK_UP(ffi_call, TVMFFIFunctionCall);
  LOOK_UP(ffi_string, TVMFFIStringFromByteArray);
  LOOK_UP(ffi_bytes, TVMFFIBytesFromByteArray);
  LOOK_UP(ffi_raise, TVMFFIErrorSetRaisedFromCStr);
  LOOK_UP(ffi_take_error, TVMFFIErrorMoveFromRaised);
  LOOK_UP(ffi_release, TVMFFIObjectDecRef);
  static const struct { const char *name; TVMFFISafeCallType call; } functions[] = {
      {"tvm.rpc.server.workpath", server_workpath}, {"tvm.rpc.server.upload", server_upload},
      {"tvm.rpc.server.load_module", server_load_module}, {"tvm.rpc.server.listdir", server_listdir},
      {"tvm.rpc.server.download_linked_module", server_download_linked_module},
      {"tvm_mnas.device_facts", device_facts}, {"tvm_mnas.device_state", device_state},
      {"tvm_mnas.device_evict", device_evict},
      {"tvm_mnas.device_instructions", device_instructions}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    TVMFFIObjectHandle made;
    TVMFFIByteArray name = {functions[i].name, strlen(functions[i].name)};
    if (ffi_create(NULL, functions[i].call, NULL, &made) || ffi_set_global(&name, made, 1))
      FAIL("cannot register %s", functions[i].name);
  }
}

/* ---- Sessions: one at a time, in a child ---- */

static struct { pid_t pid; int fd, killed; double ends, orphaned; char why[256]; } session = {.fd = -1};
/* A connection before its session, or after it (`leaving`): then what it sends is thrown away. */
static struct greeter { int fd, leaving; double ends; size_t used; unsigned char data[HEADER_BYTES + 8]; }
    greeters[MAX_GREETERS];
static int listener = -1;
static char match_key[256]; /* what the next client has to show; empty while a session runs */

static struct {
  int fd, state; /* 0 closed, 1 connecting, 2 waiting for its magic, 3 ready */
  double next_try, backoff, ping_at, answer_by, key_missing_since;
  size_t used;
  unsigned char data[MESSAGE_BYTES];
} tracker; /* all zero, so that its buffer takes no room in the file */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk) {
  (void)info, (void)kind, (void)walk;
  remove(path);
  return 0;
}

static void run_session(int fd) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  /* An inherited tracker connection would keep the device listed after the parent's death. */
  close(listener);
  if (tracker.fd >= 0) close(tracker.fd);
  for (int i = 0; i < MAX_GREETERS; ++i)
    if (greeters[i].fd >= 0) close(greeters[i].fd);
  static const int handled[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
  for (size_t i = 0; i < sizeof handled / sizeof *handled; ++i) signal(handled[i], SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  struct rlimit memory = {options.memory_bytes, options.memory_bytes}, core = {0, 0};
  setrlimit(RLIMIT_CORE, &core);
  if (options.memory_bytes) setrlimit(RLIMIT_AS, &memory);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  TVMFFIAny result;
  int failed = chdir(work_path) ||
               call_global("rpc.ServerLoop", &(TVMFFIAny){.type_index = kTVMFFIInt, .v_int64 = fd}, 1, &result);
  _exit(failed ? 1 : 0); /* what was registered at exit is the parent's */
}

static void start_session(int fd, const char *choices) {
  double limit = options.session_s;
  const char *asked = strstr(choices, "-timeout=");
  double wanted = asked ? strtod(asked + 9, NULL) : 0;
  if (wanted > 0 && wanted < limit) limit = wanted;
  match_key[0] = 0;
  snprintf(work_path, sizeof work_path, "%s/tvm-session-XXXXXX", options.work);
  if (!mkdtemp(work_path)) {
    say("cannot make a work directory in %s: %s", options.work, strerror(errno));
    close(fd);
    return;
  }
  pid_t pid = fork();
  if (pid == 0) run_session(fd);
  if (pid < 0) {
    say("cannot fork: %s", strerror(errno));
    rmdir(work_path);
    close(fd);
    return;
  }
  setpgid(pid, pid); /* also in the child: whichever comes first, the group exists before it is killed */
  session.pid = pid, session.fd = fd, session.killed = 0;
  session.ends = now_s() + limit, session.orphaned = 0;
  snprintf(session.why, sizeof session.why,
           "RPCSessionTimeoutError: the session of %g s has expired; ask for a longer session_timeout", limit);
}

static void take_slot(int fd, int leaving) {
  struct greeter *slot = greeters;
  for (int i = 0; i < MAX_GREETERS; ++i) {
    if (greeters[i].fd < 0) { slot = &greeters[i]; break; }
    if (greeters[i].ends < slot->ends) slot = &greeters[i]; /* the longest silent makes room */
  }
  if (slot->fd >= 0) close(slot->fd);
  slot->fd = fd, slot->leaving = leaving, slot->used = 0, slot->ends = now_s() + HANDSHAKE_S;
}

static void end_session(int status) {
  char text[256] = "";
  kill(-session.pid, SIGKILL); /* what the child may have started */
  if (session.killed) snprintf(text, sizeof text, "%s", session.why);
  else if (WIFSIGNALED(status))
    snprintf(text, sizeof text, "RPCError: the session died of signal %d (%s)", WTERMSIG(status),
             strsignal(WTERMSIG(status)));
  else if (WEXITSTATUS(status))
    snprintf(text, sizeof text, "RPCError: the session ended with status %d", WEXITSTATUS(status));
  if (text[0]) {
    say("%s", text);
    /* Never wait for a client that does not read. */
    fcntl(session.fd, F_SETFL, fcntl(session.fd, F_GETFL) | O_NONBLOCK);
    TVMFFIAny result, args[2] = {{.type_index = kTVMFFIInt, .v_int64 = session.fd},
                                 {.type_index = kTVMFFIRawStr, .v_c_str = text}};
    TVMFFIObjectHandle error;
    if (call_global("rpc.ReturnException", args, 2, &result)) ffi_take_error(&error);
    /* Closed now, a request under way would be answered by a reset, which eats the reason. */
    shutdown(session.fd, SHUT_WR);
    take_slot(session.fd, 1);
  } else close(session.fd);
  nftw(work_path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
  session.pid = 0, session.fd = -1;
}

static void kill_session(void) {
  session.killed = 1;
  kill(-session.pid, SIGKILL);
  kill(session.pid, SIGKILL);
}

static void drop_greeter(struct greeter *greeter) {
  close(greeter->fd);
  greeter->fd = -1;
}

static void hear_greeter(struct greeter *greeter) {
  ssize_t got = recv(greeter->fd, greeter->data + greeter->used, sizeof greeter->data - 1 - greeter->used, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (greeter->leaving && got > 0) return;
  int32_t head[2] = {RPC_MAGIC, 1};
  if (got > 0) greeter->used += got;
  memcpy(head, greeter->data, greeter->used < 8 ? greeter->used & ~3u : 8);
  if (got <= 0 || head[0] != RPC_MAGIC || head[1] <= 0 || head[1] >= HEADER_BYTES) {
    drop_greeter(greeter);
    return;
  }
  if (greeter->used < 8 || greeter->used < 8 + (size_t)head[1]) return;
  char *said = (char *)greeter->data + 8, answer[512];
  said[head[1]] = 0;
  char *choices = strchr(said, ' ');
  if (choices) *choices++ = 0;
  /* Bytes behind the key belong to the session; no client sends any before it is answered. */
  if (!match_key[0] || session.pid || strncmp(said, "client:", 7) || strcmp(said + 7, match_key) ||
      greeter->used > 8 + (size_t)head[1]) {
    send(greeter->fd, &(int32_t){RPC_MISMATCH}, 4, MSG_NOSIGNAL);
    drop_greeter(greeter);
    return;
  }
  int32_t size = snprintf(answer + 8, sizeof answer - 8, "server:%s", options.key);
  memcpy(answer, (int32_t[]){RPC_MAGIC, size}, 8);
  send(greeter->fd, answer, 8 + size, MSG_NOSIGNAL);
  int fd = greeter->fd;
  greeter->fd = -1;
  start_session(fd, choices ? choices : "");
}

static void accept_greeter(void) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) return;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  take_slot(fd, 0);
}

/* ---- The tracker: JSON messages with their length in front, answered in order ---- */

static void drop_tracker(const char *why) {
  if (tracker.state > 1) say("the tracker %s; trying again", why);
  if (tracker.fd >= 0) close(tracker.fd);
  tracker.fd = -1, tracker.state = 0, match_key[0] = 0;
  tracker.next_try = now_s() + tracker.backoff;
  tracker.backoff = tracker.backoff < 1 ? tracker.backoff * 2 : 2;
}

static void tell_tracker(const char *format, ...) {
  char text[1024];
  va_list list;
  va_start(list, format);
  int32_t size = vsnprintf(text + 4, sizeof text - 4, format, list);
  va_end(list);
  memcpy(text, &size, 4);
  tracker.answer_by = now_s() + TRACKER_ANSWER_S;
  if (send(tracker.fd, text, 4 + size, MSG_NOSIGNAL) != 4 + size) drop_tracker("closed the connection");
}

static void offer_device(void) {
  unsigned long long number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) FAIL("no random numbers: %s", strerror(errno));
  snprintf(match_key, sizeof match_key, "%s:%016llx", options.key, number);
  tracker.key_missing_since = 0, tracker.ping_at = now_s() + PING_S;
  tell_tracker("[%d, \"%s\", [%d, \"%s\"], \"%s\"]", PUT, options.key, options.port, match_key,
               options.custom_addr);
}

static void connect_tracker(void) {
  tracker.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  tracker.state = 1, tracker.used = 0, tracker.answer_by = now_s() + TRACKER_ANSWER_S;
  if (tracker.fd < 0 || (connect(tracker.fd, (struct sockaddr *)&options.tracker, sizeof options.tracker) &&
                         errno != EINPROGRESS))
    drop_tracker("refused");
}

static void hear_tracker(int writable) {
  if (tracker.state == 1 && writable) {
    tracker.state = 2;
    if (send(tracker.fd, &(int32_t){TRACKER_MAGIC}, 4, MSG_NOSIGNAL) != 4) {
      tracker.state = 1;
      drop_tracker("refused");
    }
    return;
  }
  ssize_t got = recv(tracker.fd, tracker.data + tracker.used, sizeof tracker.data - tracker.used, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) { drop_tracker("closed the connection"); return; }
  tracker.used += got;
  int32_t size;
  while (tracker.used >= 4) {
    memcpy(&size, tracker.data, 4);
    size_t whole = tracker.state == 2 ? 4 : 4 + (size_t)size;
    if (tracker.state == 2 ? size != TRACKER_MAGIC : size <= 0 || whole > sizeof tracker.data) {
      drop_tracker("does not speak TVM's protocol");
      return;
    }
    if (tracker.used < whole) return;
    int is_list = whole > 4 && tracker.data[4] == '[', is_success = whole == 5 && tracker.data[4] == '0';
    int listed = match_key[0] && memmem(tracker.data + 4, whole - 4, match_key, strlen(match_key));
    memmove(tracker.data, tracker.data + whole, tracker.used -= whole);
    tracker.answer_by = 0;
    if (tracker.state == 2) {
      tracker.state = 3, tracker.backoff = 0.05, tracker.ping_at = now_s() + PING_S;
      say("registered as %s, port %d", options.key, options.port);
      tell_tracker("[%d, {\"key\": \"server:%s\", \"addr\": [\"%s\", %d]}]", UPDATE_INFO, options.key,
                   options.custom_addr, options.port);
    } else if (!is_list && !is_success) {
      drop_tracker("refused a message");
      return;
    } else if (is_list && match_key[0]) {
      /* A client took the key and never came: only a new one makes the device free again. */
      if (listed) tracker.key_missing_since = 0;
      else if (!tracker.key_missing_since) tracker.key_missing_since = now_s();
      else if (now_s() - tracker.key_missing_since > UNUSED_KEY_S) offer_device();
    }
    if (tracker.state != 3) return;
  }
}

static void tend_tracker(void) {
  double now = now_s();
  if (tracker.state == 0 && now >= tracker.next_try) connect_tracker();
  else if (tracker.state && tracker.answer_by && now > tracker.answer_by) drop_tracker("does not answer");
  else if (tracker.state == 3 && !session.pid && !match_key[0]) offer_device();
  else if (tracker.state == 3 && now > tracker.ping_at) {
    tracker.ping_at = now + PING_S;
    tell_tracker("[%d]", PENDING_KEYS);
  }
}

/* ---- The loop ---- */

static volatile sig_atomic_t stopped;

static void on_signal(int number) {
  if (number != SIGCHLD) stopped = number;
}

static void serve(void) {
  sigset_t blocked, none;
  sigemptyset(&none);
  sigemptyset(&blocked);
  static const int handled[] = {SIGCHLD, SIGTERM, SIGINT, SIGHUP};
  for (size_t i = 0; i < sizeof handled / sizeof *handled; ++i) {
    sigaddset(&blocked, handled[i]);
    sigaction(handled[i], &(struct sigaction){.sa_handler = on_signal}, NULL);
  }
  signal(SIGPIPE, SIG_IGN);
  sigprocmask(SIG_BLOCK, &blocked, NULL); /* they arrive in ppoll only, so none is missed before it */
  for (int i = 0; i < MAX_GREETERS; ++i) greeters[i].fd = -1;
  tracker.fd = -1, tracker.backoff = 0.05;
  while (!stopped) {
    int status;
    if (session.pid && waitpid(session.pid, &status, WNOHANG) == session.pid) end_session(status);
    if (options.has_tracker) tend_tracker();
    else if (!session.pid) snprintf(match_key, sizeof match_key, "%s", options.key);
    struct pollfd polls[3 + MAX_GREETERS] = {
        {listener, POLLIN, 0},
        {tracker.fd, tracker.state == 1 ? POLLOUT : POLLIN, 0},
        {session.orphaned ? -1 : session.fd, POLLRDHUP, 0}};
    for (int i = 0; i < MAX_GREETERS; ++i) polls[3 + i] = (struct pollfd){greeters[i].fd, POLLIN, 0};
    /* Deadlines are looked at this often; it costs nothing that a measurement would notice. */
    struct timespec wait = {0, session.pid ? 200000000 : 50000000};
    if (ppoll(polls, 3 + MAX_GREETERS, &wait, &none) > 0) {
      for (int i = 0; i < MAX_GREETERS; ++i)
        if (polls[3 + i].revents) hear_greeter(&greeters[i]);
      if (polls[0].revents) accept_greeter();
      if (polls[1].revents && tracker.fd == polls[1].fd) hear_tracker(polls[1].revents & (POLLOUT | POLLERR));
      if (polls[2].revents && session.fd == polls[2].fd) session.orphaned = now_s();
    }
    double now = now_s();
    for (int i = 0; i < MAX_GREETERS; ++i)
      if (greeters[i].fd >= 0 && now > greeters[i].ends) drop_greeter(&greeters[i]);
    if (session.pid && !session.killed) {
      if (now > session.ends) kill_session();
      /* The child sees a closed connection by itself, unless a kernel keeps it. */
      else if (session.orphaned && now > session.orphaned + ORPHAN_S) {
        snprintf(session.why, sizeof session.why, "the client left a kernel running");
        kill_session();
      }
    }
  }
  if (session.pid) {
    int status;
    snprintf(session.why, sizeof session.why, "the server was stopped");
    kill_session();
    waitpid(session.pid, &status, 0);
    end_session(status);
  }
}

/* ---- The command line ---- */

static const char USAGE[] =
    "server --key KEY [--tracker HOST:PORT] [options]\n"
    "  --port N, --port-end N   the first free port of this range is taken (9090, 9199)\n"
    "  --custom-addr ADDRESS    where the tracker sends clients (the address bound to)\n"
    "  --core N                 run on this core only\n"
    "  --session-timeout S      the longest session, in seconds (600)\n"
    "  --max-upload-bytes N     the largest file of a session (256 MiB)\n"
    "  --memory-bytes N         the address space of a session (no limit)\n"
    "  --work-directory DIR     where sessions have their files (TMPDIR, else /tmp, else here)\n"
    "  --bind ADDRESS           an IPv4 address other than 127.0.0.1; needs the next option too:\n"
    "  --i-know-anyone-can-run-code";

static double number_of(const char *name, const char *text, double low, double high) {
  char *end;
  double value = strtod(text, &end);
  if (*end || end == text || !(value >= low && value <= high))
    FAIL("%s takes a number from %.0f to %.0f, not '%s'", name, low, high, text);
  return value;
}

static void read_tracker(char *text) {
  char *colon = strrchr(text, ':');
  struct addrinfo *found, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
  if (!colon) FAIL("--tracker takes HOST:PORT, not '%s'", text);
  *colon = 0;
  number_of("the tracker's port", colon + 1, 1, 65535);
  int code = getaddrinfo(text, colon + 1, &hints, &found);
  if (code) FAIL("no address for the tracker's host '%s': %s", text, gai_strerror(code));
  memcpy(&options.tracker, found->ai_addr, sizeof options.tracker);
  freeaddrinfo(found);
  options.has_tracker = 1;
}

static void read_options(int count, char **args) {
  for (int i = 1; i < count; ++i) {
    char *name = args[i];
    if (!strcmp(name, "--help")) { puts(USAGE); exit(0); }
    if (!strcmp(name, "--i-know-anyone-can-run-code")) { options.allow_all = 1; continue; }
    if (++i >= count) FAIL("%s needs a value, or is unknown\n%s", name, USAGE);
    char *value = args[i];
#define IS(text) (!strcmp(name, text))
    if (IS("--key")) options.key = value;
    else if (IS("--tracker")) read_tracker(value);
    else if (IS("--port")) options.port = number_of(name, value, 0, 65535);
    else if (IS("--port-end")) options.port_end = number_of(name, value, 1, 65536);
    else if (IS("--custom-addr")) options.custom_addr = value;
    else if (IS("--core")) options.core = number_of(name, value, 0, CPU_SETSIZE - 1);
    else if (IS("--session-timeout")) options.session_s = number_of(name, value, 1, 1e6);
    else if (IS("--max-upload-bytes")) options.upload_bytes = number_of(name, value, 1, 1e15);
    else if (IS("--memory-bytes")) options.memory_bytes = number_of(name, value, 1, 1e15);
    else if (IS("--work-directory")) options.work = value;
    else if (IS("--bind")) options.bind = value;
    else FAIL("unknown option %s\n%s", name, USAGE);
  }
  if (!options.key) FAIL("--key is needed\n%s", USAGE);
  if (!options.custom_addr) options.custom_addr = options.bind;
  if (!options.work) options.work = getenv("TMPDIR");
  if (!options.work) options.work = access("/tmp", W_OK) ? "." : "/tmp";
  /* They go into JSON as they are. */
  const char *plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  const char *texts[] = {options.key, options.custom_addr};
  for (int i = 0; i < 2; ++i)
    if (!*texts[i] || strlen(texts[i]) > 128 || texts[i][strspn(texts[i], plain)])
      FAIL("a key or address has 1 to 128 letters, digits, dots, dashes and underscores, not '%s'", texts[i]);
}

static void open_listener(void) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  if (inet_pton(AF_INET, options.bind, &address.sin_addr) != 1)
    FAIL("--bind takes an IPv4 address, not '%s'", options.bind);
  if (ntohl(address.sin_addr.s_addr) >> 24 != 127) {
    if (!options.allow_all)
      FAIL("--bind %s lets anyone who reaches this port run any code here as this user: keep 127.0.0.1 and "
           "forward the port with ssh or adb, or add --i-know-anyone-can-run-code", options.bind);
    say("WARNING: anyone who reaches %s can run any code here as this user; there is no password", options.bind);
  }
  listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
  int port = options.port;
  for (;; ++port) {
    address.sin_port = htons(port);
    if (!bind(listener, (struct sockaddr *)&address, sizeof address) && !listen(listener, 16)) break;
    if (errno != EADDRINUSE) FAIL("cannot listen on %s:%d: %s", options.bind, port, strerror(errno));
    if (port + 1 >= options.port_end) FAIL("no port from %d to %d is free", options.port, port);
  }
  getsockname(listener, (struct sockaddr *)&address, &size);
  options.port = ntohs(address.sin_port);
}

int main(int count, char **args) {
  setvbuf(stderr, NULL, _IOLBF, 0);
  read_options(count, args);
  static char work[PATH_MAX];
  if (!realpath(options.work, work)) FAIL("no work directory %s: %s", options.work, strerror(errno));
  options.work = work;
  if (geteuid() == 0) say("WARNING: running as root; what a client sends runs as root too");
  /* TVM's thread pool would bind its threads to cores of its own choice. */
  setenv("TVM_NUM_THREADS", "1", 0);
  setenv("TVM_BIND_THREADS", "0", 0);
  if (options.core >= 0) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(options.core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores)) FAIL("cannot run on core %d: %s", options.core, strerror(errno));
  }
  open_listener();
  load_tvm();
  say("listening on %s:%d", options.bind, options.port);
  serve();
  say("stopped");
  return 0;
}

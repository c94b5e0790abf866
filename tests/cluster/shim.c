/* What a daemon under test believes of its disk and its clock: preloaded into it by shim.py.
 *
 * One small file, mapped by the daemon and written to by the test, says what goes wrong at this moment:
 * syncs and writes of files in one folder fail or take long, and the wall clock (never the monotonic one)
 * is off. Calls are counted there too, so that a test can see that it struck. Zeros mean: as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t clock_ahead_s;
    int64_t sync_errno;
    int64_t sync_delay_ms;
    int64_t write_errno;
    uint64_t syncs;
    uint64_t writes;
    uint64_t clock_reads;
};

static volatile struct control *control;
static const char *folder = "";

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("RAFTOS_TEST_CONTROL");
    folder = getenv("RAFTOS_TEST_FOLDER");
    int descriptor = file && folder ? open(file, O_RDWR | O_CLOEXEC) : -1;
    void *mapped = MAP_FAILED;
    if (descriptor >= 0) {
        mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
        close(descriptor);
    }
    if (mapped == MAP_FAILED) {
        fprintf(stderr, "the shim has no control file\n");
        _exit(99);
    }
    control = mapped;
}

static int in_folder(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 0 && strncmp(path, folder, strlen(folder)) == 0;
}

/* Whether this sync is to fail; waits as long as it is to take. */
static int sync_fails(int descriptor) {
    if (!control || !in_folder(descriptor)) return 0;
    __sync_fetch_and_add(&control->syncs, 1);
    int64_t delay_ms = control->sync_delay_ms;
    struct timespec pause = {delay_ms / 1000, delay_ms % 1000 * 1000000};
    if (delay_ms > 0) nanosleep(&pause, NULL);
    errno = (int)control->sync_errno;
    return errno != 0;
}

int fdatasync(int descriptor) {
    if (sync_fails(descriptor)) return -1;
    return ((int (*)(int))real("fdatasync"))(descriptor);
}

int fsync(int descriptor) {
    if (sync_fails(descriptor)) return -1;
    return ((int (*)(int))real("fsync"))(descriptor);
}

static int write_fails(int descriptor) {
    if (!control || !control->write_errno || !in_folder(descriptor)) return 0;
    __sync_fetch_and_add(&control->writes, 1);
    errno = (int)control->write_errno;
    return 1;
}

ssize_t write(int descriptor, const void *bytes, size_t size) {
    if (write_fails(descriptor)) return -1;
    return ((ssize_t (*)(int, const void *, size_t))real("write"))(descriptor, bytes, size);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) {
    if (write_fails(descriptor)) return -1;
    return ((ssize_t (*)(int, const void *, size_t, off_t))real("pwrite"))(descriptor, bytes, size, offset);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
    if (write_fails(descriptor)) return -1;
    return ((ssize_t (*)(int, const void *, size_t, off64_t))real("pwrite64"))(descriptor, bytes, size, offset);
}

static int64_t ahead_s(void) {
    if (!control) return 0;
    __sync_fetch_and_add(&control->clock_reads, 1);
    return control->clock_ahead_s;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*ask)(clockid_t, struct timespec *);
    if (!ask) ask = real("clock_gettime");
    int result = ask(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead_s();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    int result = ((int (*)(struct timeval *, void *))real("gettimeofday"))(now, zone);
    if (result == 0) now->tv_sec += ahead_s();
    return result;
}

time_t time(time_t *where) {
    time_t now = ((time_t (*)(time_t *))real("time"))(NULL) + ahead_s();
    if (where) *where = now;
    return now;
}

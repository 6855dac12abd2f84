/* Logs which files a process touches: `LD_PRELOAD=traced_files.so TRACE_LOG=FILE`.
 *
 * A line is `R path` for reading, `W path` for anything that could change a file, and
 * `X what` for a connection or a program. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <dirent.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static void note(char kind, const char *path) {
  static __thread int inside = 0;
  static int log = -1;
  const char *file = getenv("TRACE_LOG");
  char line[4200];
  int length;
  if (inside || file == NULL || path == NULL) return;
  inside = 1;
  if (log < 0)
    log = (int)syscall(SYS_openat, AT_FDCWD, file,
                       O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  length = snprintf(line, sizeof line, "%c %s\n", kind, path);
  if (length >= (int)sizeof line) length = (int)sizeof line - 1;
  if (log >= 0 && write(log, line, (size_t)length) < 0) abort();
  inside = 0;
}

static char kind_of(int flags) {
  return (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND)) ? 'W' : 'R';
}

static char kind_of_mode(const char *mode) {
  return (strpbrk(mode, "wa+") != NULL) ? 'W' : 'R';
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                      \
  int name(const char *path, int flags, ...) {          \
    va_list more;                                       \
    mode_t mode;                                        \
    va_start(more, flags);                              \
    mode = (mode_t)va_arg(more, int);                   \
    va_end(more);                                       \
    note(kind_of(flags), path);                         \
    return REAL(name)(path, flags, mode);               \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                    \
  int name(int at, const char *path, int flags, ...) {  \
    va_list more;                                       \
    mode_t mode;                                        \
    va_start(more, flags);                              \
    mode = (mode_t)va_arg(more, int);                   \
    va_end(more);                                       \
    note(kind_of(flags), path);                         \
    return REAL(name)(at, path, flags, mode);           \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                     \
  FILE *name(const char *path, const char *mode) {      \
    note(kind_of_mode(mode), path);                     \
    return REAL(name)(path, mode);                      \
  }
FOPEN(fopen)
FOPEN(fopen64)

#define ONE(result, kind, name, rest, given)            \
  result name rest {                                    \
    note(kind, path);                                   \
    return REAL(name) given;                            \
  }
ONE(int, 'W', creat, (const char *path, mode_t mode), (path, mode))
ONE(int, 'W', mkdir, (const char *path, mode_t mode), (path, mode))
ONE(int, 'W', mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))
ONE(int, 'W', rmdir, (const char *path), (path))
ONE(int, 'W', unlink, (const char *path), (path))
ONE(int, 'W', unlinkat, (int at, const char *path, int flags), (at, path, flags))
ONE(int, 'W', truncate, (const char *path, off_t size), (path, size))
ONE(int, 'W', truncate64, (const char *path, off64_t size), (path, size))
ONE(int, 'W', mkfifo, (const char *path, mode_t mode), (path, mode))
ONE(int, 'W', mkstemp, (char *path), (path))
ONE(int, 'W', mkstemps, (char *path, int size), (path, size))
ONE(DIR *, 'R', opendir, (const char *path), (path))
ONE(int, 'W', rename, (const char *from, const char *path), (from, path))
ONE(int, 'W', renameat, (int at, const char *from, int to, const char *path),
    (at, from, to, path))
ONE(int, 'W', link, (const char *from, const char *path), (from, path))
ONE(int, 'W', symlink, (const char *from, const char *path), (from, path))
ONE(int, 'X', execve, (const char *path, char *const a[], char *const e[]),
    (path, a, e))
ONE(int, 'X', execv, (const char *path, char *const a[]), (path, a))
ONE(FILE *, 'X', popen, (const char *path, const char *mode), (path, mode))
ONE(int, 'X', system, (const char *path), (path))

int posix_spawn(pid_t *id, const char *path, const posix_spawn_file_actions_t *f,
                const posix_spawnattr_t *b, char *const a[], char *const e[]) {
  note('X', path);
  return REAL(posix_spawn)(id, path, f, b, a, e);
}

int connect(int socket, const struct sockaddr *address, socklen_t size) {
  note('X', "connect");
  return REAL(connect)(socket, address, size);
}

int bind(int socket, const struct sockaddr *address, socklen_t size) {
  note('X', "bind");
  return REAL(bind)(socket, address, size);
}

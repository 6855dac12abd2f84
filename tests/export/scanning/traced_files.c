/* Runs a program and logs which files it touches: `traced_files LOG PROGRAM ...`.
 *
 * A line is `R path` for reading, `W path` for what could change a file, and `X what`
 * for a connection or a program. The kernel stops the program at these system calls
 * only (seccomp), so that the rest runs at full speed, and no library can go around
 * it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h>

/* The number of a system call, which argument is the path, and which has the flags of
 * `open` (-1: none, the letter says what the call does). */
struct call {
  long number;
  int path, flags;
  char kind;
};

static const struct call CALLS[] = {
#ifdef SYS_open
    {SYS_open, 0, 1, 'R'},      {SYS_creat, 0, -1, 'W'},  {SYS_mkdir, 0, -1, 'W'},
    {SYS_rmdir, 0, -1, 'W'},    {SYS_unlink, 0, -1, 'W'}, {SYS_rename, 1, -1, 'W'},
    {SYS_link, 1, -1, 'W'},     {SYS_symlink, 1, -1, 'W'}, {SYS_mknod, 0, -1, 'W'},
    {SYS_chmod, 0, -1, 'W'},
#endif
    {SYS_openat, 1, 2, 'R'},    {SYS_mkdirat, 1, -1, 'W'}, {SYS_unlinkat, 1, -1, 'W'},
#ifdef SYS_renameat
    {SYS_renameat, 3, -1, 'W'},
#endif
    {SYS_renameat2, 3, -1, 'W'}, {SYS_linkat, 3, -1, 'W'},
    {SYS_symlinkat, 2, -1, 'W'}, {SYS_mknodat, 1, -1, 'W'},
    {SYS_truncate, 0, -1, 'W'},  {SYS_fchmodat, 1, -1, 'W'},
    {SYS_execve, 0, -1, 'X'},    {SYS_connect, -1, -1, 'X'},
    {SYS_bind, -1, -1, 'X'},
};
#define COUNT (sizeof CALLS / sizeof *CALLS)

static void stop_at_these_calls(void) {
  struct sock_filter code[COUNT + 3];
  struct sock_fprog program = {COUNT + 3, code};
  size_t i;
  code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                         offsetof(struct seccomp_data, nr));
  for (i = 0; i < COUNT; i++)
    code[i + 1] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                               CALLS[i].number, COUNT - i, 0);
  code[COUNT + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  code[COUNT + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    exit(77);
}

static void log_call(FILE *log, pid_t id) {
  struct __ptrace_syscall_info info;
  char path[4096] = "";
  size_t i;
  if (ptrace(PTRACE_GET_SYSCALL_INFO, id, sizeof info, &info) <= 0) return;
  for (i = 0; i < COUNT && CALLS[i].number != (long)info.seccomp.nr; i++) continue;
  if (i == COUNT) return;
  char kind = CALLS[i].kind;
  if (CALLS[i].path >= 0) {
    char *at = (char *)info.seccomp.args[CALLS[i].path];
    size_t size = 0; /* read page by page: the next one may not be there */
    while (size < sizeof path - 1) {
      size_t some = 4096 - (size_t)(at + size) % 4096;
      if (some > sizeof path - 1 - size) some = sizeof path - 1 - size;
      struct iovec to = {path + size, some}, from = {at + size, some};
      if (process_vm_readv(id, &to, 1, &from, 1, 0) <= 0) break;
      if (memchr(path + size, 0, some) != NULL) break;
      size += some;
    }
  } else {
    snprintf(path, sizeof path, "%s", "a connection");
  }
  if (CALLS[i].flags >= 0 &&
      (info.seccomp.args[CALLS[i].flags] & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)))
    kind = 'W';
  fprintf(log, "%c %s\n", kind, path);
  fflush(log);
}

int main(int count, char **arguments) {
  const long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE |
                       PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                       PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
  FILE *log = count > 2 ? fopen(arguments[1], "a") : NULL;
  int status;
  if (log == NULL) return 2;
  pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) exit(77);
    raise(SIGSTOP);
    stop_at_these_calls();
    execvp(arguments[2], arguments + 2);
    exit(127);
  }
  if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status)) return 77;
  if (ptrace(PTRACE_SETOPTIONS, child, 0, options) != 0) return 77;
  ptrace(PTRACE_CONT, child, 0, 0);
  for (;;) {
    pid_t id = waitpid(-1, &status, __WALL);
    if (id < 0 && errno == EINTR) continue;
    if (id < 0) return 0;
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
      if (id == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
      continue;
    }
    int signal = WSTOPSIG(status), event = status >> 16;
    if (event == PTRACE_EVENT_SECCOMP) log_call(log, id);
    /* The stop of a new thread is ours; other signals are the program's. */
    if (event != 0 || signal == SIGSTOP || signal == SIGTRAP) signal = 0;
    ptrace(PTRACE_CONT, id, 0, signal);
  }
}

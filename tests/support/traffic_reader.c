/* Opens a pinned map again and again by its path until SIGTERM, as any C program would.
 *
 *     traffic_reader PIN
 *
 * Writes a line when the first open succeeded, and at the end how often it opened and how often it
 * could not, with the first errno. */
#include <errno.h>
#include <linux/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static int open_pin(const char *path)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.pathname = (unsigned long)path;
	return syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr));
}

int main(int argc, char **argv)
{
	long opens = 0, failures = 0;
	int first_errno = 0;

	if (argc != 2)
		return 2;
	signal(SIGTERM, stop);
	while (!stopped) {
		int fd = open_pin(argv[1]);

		if (fd < 0 && !failures++)
			first_errno = errno;
		if (fd >= 0)
			close(fd);
		if (!opens++) {
			puts("started");
			fflush(stdout);
		}
	}
	printf("%ld %ld %s\n", opens, failures, failures ? strerror(first_errno) : "");
	return 0;
}

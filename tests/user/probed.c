/* A program with functions and probes (USDT) to attach to.
 *
 * It reads a number from a line, calls each function so often, and answers "done". With the argument
 * "calls" or "faults" it calls a function, or has page faults at one address, as fast as it can until
 * SIGTERM, and prints how many. The notes are those that <sys/sdt.h> of systemtap makes, so that no
 * package is needed for it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* What is called at each place of a probe: its note, in the section .note.stapsdt. */
#define PROBE(name, arguments, semaphore, ...)                                                    \
	asm volatile("990: nop\n"                                                                 \
		     ".pushsection .note.stapsdt, \"\", \"note\"\n"                               \
		     ".balign 4\n"                                                                \
		     ".4byte 992f - 991f, 994f - 993f, 3\n"                                       \
		     "991: .asciz \"stapsdt\"\n"                                                  \
		     "992: .balign 4\n"                                                           \
		     "993: .8byte 990b, _.stapsdt.base, " semaphore "\n"                          \
		     ".asciz \"probed\", \"" name "\", \"" arguments "\"\n"                       \
		     "994: .balign 4\n"                                                           \
		     ".popsection\n"                                                              \
		     ".ifndef _.stapsdt.base\n"                                                   \
		     ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"  \
		     ".weak _.stapsdt.base\n"                                                     \
		     ".hidden _.stapsdt.base\n"                                                   \
		     "_.stapsdt.base: .space 1\n"                                                 \
		     ".size _.stapsdt.base, 1\n"                                                  \
		     ".popsection\n"                                                              \
		     ".endif\n" ::__VA_ARGS__)

unsigned short probed_guarded_semaphore __attribute__((section(".probes"), used));

static long number_of_calls;
static int pair[2] = { -11, -12 };

__attribute__((noinline)) long probed_sum(long first, long second)
{
	asm volatile("" ::: "memory");
	return first + second;
}

static __attribute__((noinline, used)) long probed_local(long first)
{
	asm volatile("" ::: "memory");
	return first + 1;
}

static __attribute__((noinline)) void probes(long number)
{
	static long table[] = { 100, 200, 300, 400 };
	signed char byte = -1;
	unsigned char unsigned_byte = 255;
	short half = -2;
	unsigned short unsigned_half = 65534;
	int word = -3;
	unsigned int unsigned_word = 4294967293U;
	long index = number & 3;

	number_of_calls++;
	pair[0]++;
	PROBE("plain", "", "0");
#if defined(__x86_64__)
	PROBE("registers", "-1@%b0 1@%b1 -2@%w2 2@%w3 -4@%k4 4@%k5 -8@%6", "0", "q"(byte),
	      "q"(unsigned_byte), "r"(half), "r"(unsigned_half), "r"(word), "r"(unsigned_word),
	      "r"(number));
	PROBE("memory", "-8@%0 -4@%1 -2@%2 1@%3 -4@$-7", "0", "m"(table[1]), "m"(word), "m"(half),
	      "m"(unsigned_byte));
	PROBE("indexed", "-8@(%0,%1,8) -8@8(%0,%1,8)", "0", "r"(table), "r"(index));
#elif defined(__aarch64__)
	PROBE("registers", "-1@%w0 1@%w1 -2@%w2 2@%w3 -4@%w4 4@%w5 -8@%6", "0", "r"(byte),
	      "r"(unsigned_byte), "r"(half), "r"(unsigned_half), "r"(word), "r"(unsigned_word),
	      "r"(number));
	PROBE("memory", "-8@%0 -4@%1 -2@%2 1@%3 -4@-7", "0", "m"(table[1]), "m"(word), "m"(half),
	      "m"(unsigned_byte));
	PROBE("indexed", "-8@[%0, 8] -8@[%0, 16]", "0", "r"(table));
#endif
#if defined(__x86_64__)
	PROBE("variable", "-8@%0 -4@%1", "0", "m"(number_of_calls), "m"(pair[1]));
#endif
	if (probed_guarded_semaphore)
		PROBE("guarded", "8@$5", "probed_guarded_semaphore");
	/* Two places of one probe. */
	PROBE("twice", "-4@$1", "0");
	PROBE("twice", "-4@$2", "0");
	(void)index;
}

static __attribute__((noinline)) void called(long number)
{
	probed_sum(number, 10);
	PROBE("called", "-4@$1", "0");
}

#define FAULT_AT ((volatile char *)0x600000000000)

static volatile sig_atomic_t is_over;

static void end(int signal)
{
	is_over = signal;
}

static void fault(void)
{
	*FAULT_AT = 1;
	madvise((void *)FAULT_AT, 4096, MADV_DONTNEED);
}

static int run(const char *what)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	int is_fault = !strcmp(what, "faults");
	long made = 0;

	signal(SIGTERM, end);
	if (mmap((void *)FAULT_AT, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED)
		return 1;
	puts("started");
	fflush(stdout);
	for (; !is_over; made++) {
		if (is_fault)
			fault();
		else
			called(made);
	}
	printf("%ld\n", made);
	return 0;
}

int main(int count, char **words)
{
	char line[32];

	if (count > 1)
		return run(words[1]);
	while (fgets(line, sizeof(line), stdin)) {
		for (long number = atol(line); number > 0; number--) {
			probed_sum(number, 10);
			probed_local(number);
			probes(number);
		}
		puts("done");
		fflush(stdout);
	}
	return 0;
}

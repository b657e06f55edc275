/* A program with functions and probes (USDT) to attach to.
 *
 * It reads a number from a line, calls each function so often, and answers "done". The notes are
 * those that <sys/sdt.h> of systemtap makes, so that no package is needed for it.
 */
#include <stdio.h>
#include <stdlib.h>

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
	if (probed_guarded_semaphore)
		PROBE("guarded", "8@$5", "probed_guarded_semaphore");
	/* Two places of one probe. */
	PROBE("twice", "-4@$1", "0");
	PROBE("twice", "-4@$2", "0");
	(void)index;
}

int main(void)
{
	char line[32];

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

/* A program with functions and a probe (USDT) to attach to. */

#define FUNCTION(name)                                  \
	__attribute__((noinline)) void name(int number) \
	{                                               \
		asm volatile("" ::"r"(number));         \
	}

FUNCTION(first)
FUNCTION(second)
FUNCTION(third)

int main(int count, char **words)
{
	(void)words;
	first(count), second(count), third(count);
	/* The note is what <sys/sdt.h> of systemtap makes of DTRACE_PROBE1(bench, called, 5). */
	asm volatile("990: nop\n"
		     ".pushsection .note.stapsdt, \"\", \"note\"\n"
		     ".balign 4\n"
		     ".4byte 992f - 991f, 994f - 993f, 3\n"
		     "991: .asciz \"stapsdt\"\n"
		     "992: .balign 4\n"
		     "993: .8byte 990b, _.stapsdt.base, 0\n"
		     ".asciz \"bench\", \"called\", \"-4@$5\"\n"
		     "994: .balign 4\n"
		     ".popsection\n"
		     ".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n"
		     ".weak _.stapsdt.base\n"
		     ".hidden _.stapsdt.base\n"
		     "_.stapsdt.base: .space 1\n"
		     ".size _.stapsdt.base, 1\n"
		     ".popsection\n");
	return 0;
}

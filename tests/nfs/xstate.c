/*
 * Loaded into User Mode Linux before its own libraries. Linux 6.1 as a guest hands the processor's extended state back
 * to the host in as many bytes as processors had before AMX, and a host with AMX takes the whole or nothing: the guest's
 * first process then dies with "ptrace set fp regs failed". What is missing at the end is the state of units that no
 * program in the guest can use, so it is filled up with zeros, which means "not in use".
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long (*ptrace_function)(enum __ptrace_request, pid_t, void *, void *);

/* The guest's kernel is one thread of the host's. */
static char whole[1 << 16];
static size_t host_size;

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_function real;
	va_list arguments;
	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (!real)
		real = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
		struct iovec *given = data, filled = {whole, sizeof whole};
		if (host_size == 0) {
			if (real(PTRACE_GETREGSET, pid, address, &filled) < 0)
				return -1;
			host_size = filled.iov_len;
			memset(whole, 0, sizeof whole);
		}
		if (given->iov_len < host_size) {
			memcpy(whole, given->iov_base, given->iov_len);
			filled.iov_len = host_size;
			return real(request, pid, address, &filled);
		}
	}
	return real(request, pid, address, data);
}

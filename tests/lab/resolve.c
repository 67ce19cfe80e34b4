/* What a program gets from its C library's resolver: the addresses of a name, or the name of an address.
 *
 *     resolve NAME          one address per line
 *     resolve -r ADDRESS    the name
 *
 * Exit status as of getent: 0, or 2 if there is none; 3 for all other failures. Made for musl, which has no getent.
 */
#include <netdb.h>
#include <stdio.h>
#include <string.h>

#ifndef EAI_NODATA
#define EAI_NODATA EAI_NONAME
#endif

static int failed(const char *what, int error)
{
    fprintf(stderr, "%s: %s\n", what, gai_strerror(error));
    return error == EAI_NONAME || error == EAI_NODATA ? 2 : 3;
}

int main(int count, char **words)
{
    int reverse = count == 3 && !strcmp(words[1], "-r");
    const char *asked = words[count - 1];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = reverse ? AI_NUMERICHOST : 0};
    struct addrinfo *found, *each;
    char text[256];
    int error;

    if (count != 2 && !reverse)
        return 64;
    error = getaddrinfo(asked, NULL, &hints, &found);
    if (error)
        return failed(asked, error);
    for (each = found; each; each = each->ai_next) {
        error = getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof text, NULL, 0,
                            reverse ? NI_NAMEREQD : NI_NUMERICHOST);
        if (error)
            return failed(asked, error);
        puts(text);
    }
    freeaddrinfo(found);
    return 0;
}

# What an ordinary guest needs of a CPU, in one page: the guest of the accelerator's probe.
#
# It is the whole firmware of its machine (-bios), linked for 0xff000, where the last page of a 64 KiB ROM appears. It
# writes one letter to the first serial port for each thing that works, and ends with a full stop:
#
#   R  real mode              P  protected mode           L  long mode with paging
#   F  a page fault, mended by its handler                U  ring 3 and back by syscall, a thousand times
#   T  timer interrupts wake it from hlt                  I  timer interrupts reach it in ring 3
#
# Build: as --64 x86_64.S -o probe.o && ld -Ttext=0xff000 --oformat=binary -e start probe.o -o x86_64.bin

        .set PML4, 0x10000
        .set PDPT, 0x11000
        .set PD, 0x12000
        .set GDT, 0x13000
        .set TSS, 0x14000
        .set IDT, 0x15000
        .set TICKS, 0x16000
        .set CALLS, 0x16008
        .set KERNEL_STACK, 0x8000
        .set USER_STACK, 0x9000
        .set INTERRUPT_STACK, 0xa000
        .set COM1, 0x3f8

        .macro say letter
        movb $\letter, %al
        movw $COM1, %dx
        outb %al, %dx
        .endm

        .text
        .code16
        .globl start
start:  cli
        cld
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %ss
        movw $KERNEL_STACK, %sp
        say 'R'
        lgdtl %cs:gdt_pointer - 0xf0000
        movl %cr0, %eax
        orl $1, %eax
        movl %eax, %cr0
        ljmpl $0x08, $protected

        .code32
protected:
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $KERNEL_STACK, %esp
        say 'P'
        movl $0x1ff, 0xfee000f0         # local APIC: on, and interrupts of the old controller go through it
        movl $0x700, 0xfee00350
        movl $PML4, %edi                # tables, IDT, TSS and counters: all zero
        movl $0x8000 / 4, %ecx
        xorl %eax, %eax
        rep stosl
        movl $PDPT + 7, PML4
        movl $PD + 7, PDPT
        movl $0x000087, PD              # 0 to 2 MiB are themselves; 2 to 4 MiB are missing;
        movl $0x400087, PD + 16         # 4 to 6 MiB are themselves
        movl $gdt, %esi                 # in RAM, for the CPU writes into it
        movl $GDT, %edi
        movl $gdt_end - gdt, %ecx
        rep movsb
        movl $0x20, %eax                # PAE
        movl %eax, %cr4
        movl $PML4, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx          # EFER: long mode, syscall
        rdmsr
        orl $0x101, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80010000, %eax           # paging, write protection
        movl %eax, %cr0
        ljmpl $0x18, $long

        .code64
long:   movw $0x20, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movl $KERNEL_STACK, %esp
        lgdt ram_gdt_pointer
        say 'L'

        movl $14, %edi
        movl $page_fault, %esi
        call set_gate
        movl $32, %edi
        movl $timer, %esi
        call set_gate
        lidt idt_pointer
        movq $INTERRUPT_STACK, TSS + 4
        movw $0x38, %ax
        ltr %ax

        movl $0x726f6f73, 0x200008      # faults; the handler maps 2 MiB to the memory at 4 MiB
        cmpl $0x726f6f73, 0x400008
        jne dead
        say 'F'

        movl $0xc0000081, %ecx          # STAR: kernel 0x18, 0x20; user 0x28, 0x30
        xorl %eax, %eax
        movl $0x00200018, %edx
        wrmsr
        incl %ecx                       # LSTAR
        movl $system_call, %eax
        xorl %edx, %edx
        wrmsr
        movl $0xc0000084, %ecx          # SFMASK: no interrupts in system calls
        movl $0x200, %eax
        xorl %edx, %edx
        wrmsr
        pushq $0x2b                     # to ring 3
        pushq $USER_STACK
        pushq $2
        pushq $0x33
        pushq $user
        iretq

user:   movl $1000, %ebx
1:      syscall
        decl %ebx
        jnz 1b
        movl $1, %edi                   # now with the timer on
        syscall
2:      cmpl $6, TICKS
        jb 2b
        movl $2, %edi                   # done
        syscall
        jmp dead

system_call:
        cmpl $1, %edi
        je start_timer
        cmpl $2, %edi
        je finish
        incl CALLS
        movq %cr3, %rax                 # a process switch flushes the TLB
        movq %rax, %cr3
        sysretq

start_timer:
        movl %ecx, %r8d
        cmpl $1000, CALLS
        jne dead
        say 'U'
        movb $0x11, %al                 # both interrupt controllers: vectors from 32, only the timer
        outb %al, $0x20
        outb %al, $0xa0
        movb $0x20, %al
        outb %al, $0x21
        movb $0x28, %al
        outb %al, $0xa1
        movb $4, %al
        outb %al, $0x21
        movb $2, %al
        outb %al, $0xa1
        movb $1, %al
        outb %al, $0x21
        outb %al, $0xa1
        movb $0xfe, %al
        outb %al, $0x21
        movb $0xff, %al
        outb %al, $0xa1
        movb $0x34, %al                 # timer 0: mode 2, 1193182 Hz / 11932 = 100 Hz
        outb %al, $0x43
        movb $11932 & 0xff, %al
        outb %al, $0x40
        movb $11932 >> 8, %al
        outb %al, $0x40
        movl $KERNEL_STACK, %esp
        sti
1:      hlt
        cmpl $3, TICKS
        jb 1b
        cli
        say 'T'
        movl %r8d, %ecx
        movl $0x202, %r11d              # back to ring 3 with interrupts on
        movl $USER_STACK, %esp
        sysretq

finish: say 'I'
        say '.'
        lidt no_idt_pointer             # and off: a triple fault ends QEMU (-no-reboot)
        int3
dead:   cli
        hlt
        jmp dead

page_fault:
        pushq %rax
        movq %cr2, %rax
        cmpq $0x200008, %rax
        jne dead
        movl $0x400087, PD + 8
        invlpg 0x200008
        popq %rax
        addq $8, %rsp                   # the error code
        iretq

timer:  pushq %rax
        incl TICKS
        movb $0x20, %al
        outb %al, $0x20
        popq %rax
        iretq

set_gate:                               # edi: vector, esi: handler
        shll $4, %edi
        movw %si, IDT(%rdi)
        movw $0x18, IDT + 2(%rdi)
        movw $0x8e00, IDT + 4(%rdi)
        shrl $16, %esi
        movw %si, IDT + 6(%rdi)
        ret

        .balign 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        # 0x08 code, 32 bits
        .quad 0x00cf93000000ffff        # 0x10 data
        .quad 0x00af9b000000ffff        # 0x18 code, 64 bits
        .quad 0x00cf93000000ffff        # 0x20 data
        .quad 0x00cff3000000ffff        # 0x28 data of ring 3
        .quad 0x00affb000000ffff        # 0x30 code of ring 3, 64 bits
        .quad 0x0000890000000067 + (TSS << 16)  # 0x38 TSS
        .quad 0
gdt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
ram_gdt_pointer:
        .word gdt_end - gdt - 1
        .quad GDT
idt_pointer:
        .word 33 * 16 - 1
        .quad IDT

no_idt_pointer:
        .fill 10, 1, 0

        .org 0xff0                      # the reset vector
        .code16
        ljmp $0xf000, $start - 0xf0000
        .org 0x1000, 0

"""Operations over typed tables, one at a time, each published with a manifest.

    prompts ──generate──▶ samples ──label──▶ rewards ──filter──▶ best ──template, tokenize──▶ a trainer's rows
                             └──────────── rejected rows, with reasons ──────┘

Six shapes (`datakit.op`) say how rows go in and come out, and are all that the runner (`datakit.apply`)
knows:

    Read none -> many     Label rows gain columns     Keep rows stay or go
    Expand one -> many    Gather rows seen together   Blend many datasets -> one

Eight families hold the operations, one to a file:

    io        rows from outside, and out again       blend     mix, shuffle, split, pair
    generate  a policy writes                        template  conversations become text
    label     a number or a finding on every row     tokenize  text becomes tokens
    filter    a decision over every row              sql       queries

`datakit.registry.OPS` holds all of them by name; `datakit.clients` says what a model looks like from here.
"""

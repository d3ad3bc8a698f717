package org.edgehadanorm.core;

import java.util.ArrayList;
import java.util.List;

/** Paths inside a bundle, relative, with `/`. */
final class Paths {
    private Paths() {
    }

    /** Whether a path is one of printable characters that stays inside, with one way to write it. */
    static boolean isPlain(String path) {
        for (String part : path.split("/", -1)) {
            if (part.isEmpty() || part.equals(".") || part.equals("..")) {
                return false;
            }
        }
        return path.codePoints().allMatch(point -> point != '\\' && point != ':' && isPrintable(point));
    }

    /** The folders that a path is in, the nearest first. */
    static List<String> parents(String path) {
        List<String> parents = new ArrayList<>();
        for (int end = path.lastIndexOf('/'); end >= 0; end = path.lastIndexOf('/', end - 1)) {
            parents.add(path.substring(0, end));
        }
        return parents;
    }

    private static boolean isPrintable(int point) {
        switch (Character.getType(point)) {
            case Character.CONTROL:
            case Character.FORMAT:
            case Character.SURROGATE:
            case Character.PRIVATE_USE:
            case Character.UNASSIGNED:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return false;
            case Character.SPACE_SEPARATOR:
                return point == ' ';
            default:
                return true;
        }
    }
}

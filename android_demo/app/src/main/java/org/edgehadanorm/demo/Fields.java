package org.edgehadanorm.demo;

import android.content.Context;
import android.view.View;
import android.widget.ArrayAdapter;
import android.widget.EditText;
import android.widget.Spinner;
import android.widget.SpinnerAdapter;
import java.util.List;
import java.util.Optional;
import java.util.function.Function;

/** Reads and fills the fields of a form. */
final class Fields {
    private Fields() {
    }

    /** The numbers to choose from, and the chosen one. */
    static void choices(Context context, Spinner spinner, List<Integer> numbers, int chosen) {
        ArrayAdapter<Integer> adapter = new ArrayAdapter<>(context, R.layout.item_choice, numbers);
        adapter.setDropDownViewResource(R.layout.item_choice_open);
        spinner.setAdapter(adapter);
        select(spinner, chosen);
    }

    static void select(Spinner spinner, int number) {
        SpinnerAdapter adapter = spinner.getAdapter();
        for (int position = 0; adapter != null && position < adapter.getCount(); position++) {
            if (adapter.getItem(position).equals(number)) {
                spinner.setSelection(position);
            }
        }
    }

    /** Nothing as long as there are no choices. */
    static Optional<Integer> chosen(Spinner spinner) {
        return Optional.ofNullable((Integer) spinner.getSelectedItem());
    }

    /** The number in a field, or nothing and a word at the field. */
    static <T> Optional<T> number(EditText field, Function<String, T> parse, int problem) {
        try {
            T number = parse.apply(field.getText().toString().trim());
            field.setError(null);
            return Optional.of(number);
        } catch (NumberFormatException error) {
            field.setError(field.getContext().getString(problem));
            field.requestFocus();
            return Optional.empty();
        }
    }

    static void visible(View view, boolean visible) {
        view.setVisibility(visible ? View.VISIBLE : View.GONE);
    }
}
